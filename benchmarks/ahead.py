"""Training on rollouts of a vLLM server, played in time (data.engine.max_staleness=0) and an iteration ahead (1).

    scripts/serve_policy.sh src/a2tgpo/policies/tiny --dtype float32 --enforce-eager --max-model-len 512 \\
        --gpu-memory-utilization 0.2 --no-enable-chunked-prefill &
    python -m benchmarks.ahead     # with the project installed: pip install --editable .

Both ways train in turn, `--rounds` times, once for each of `--tools`, the seconds that a tool call takes. Counted are
whole iterations between the end of the first and the end of the last but one: what is played ahead of them and what is
played ahead in them is as much. Leaves benchmarks/results/ahead.json.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from omegaconf import DictConfig

from a2tgpo.rollouts.protocols import Environment, StepResult
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.process import configure_process
from a2tgpo.training.ahead import Ahead
from a2tgpo.training.module import A2TGPOModule
from benchmarks.__main__ import RESULTS
from benchmarks.embedded import configuration
from benchmarks.harness import Benchmark, spread

EDGES = 2
"""Iterations that are not counted: the first, whose set nobody could play ahead, and the last, behind which none is."""
SHOWN = ("rollout", "rollout_ahead", "scoring", "update")


@dataclass(frozen=True)
class SlowTools:
    """Makes environments whose tool results take `seconds` more."""

    make: Callable[[Task], Environment]
    seconds: float

    def __call__(self, task: Task) -> Environment:
        """An environment of its own for each episode."""
        environment = self.make(task)
        step = environment.step

        def slow_step(action_text: str) -> StepResult:
            result = step(action_text)
            if result.observation:
                time.sleep(self.seconds)
            return result

        environment.step = slow_step
        return environment


class Clock(Callback):
    """When iterations ended, and what they spent."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seconds: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: A2TGPOModule) -> None:
        """Count an iteration."""
        self.ends.append(time.perf_counter())
        ahead = {"rollout_ahead": pl_module.metrics.get("seconds/rollout_ahead", 0.0)}
        self.seconds.append(pl_module.seconds | ahead)


def served(url: str, directory: str, max_staleness: int, iterations: int, prompts: int) -> DictConfig:
    """A run of the embedded policy with an adapter, sampled by the server."""
    return configuration(
        "experiment=a2tgpo",
        "model/policy=tiny_lora",
        "model/reference=disabled_adapter",
        "data/engine=vllm",
        f"data.engine.url={url}",
        f"data.engine.weight_sync.directory={directory}",
        f"data.engine.max_staleness={max_staleness}",
        f"data.module.prompts_per_iteration={prompts}",
        f"data.module.mini_batch_prompts={prompts // 2}",
        f"trainer.max_epochs={iterations + EDGES}",
    )


def train(config: DictConfig, tool: float) -> Clock:
    """Train without files or validation."""
    torch.manual_seed(0)  # of the adapter
    data = instantiate(config.data.module, _convert_="all")
    data.rollout = replace(data.rollout, environment=SlowTools(data.rollout.environment, tool))
    if data.ahead is not None:
        data.ahead = Ahead(data.rollout)
    learner, clock = instantiate(config.model.module, _convert_="all"), Clock()
    settings = {"enable_checkpointing": False, "limit_val_batches": 0, "default_root_dir": None}
    instantiate(config.trainer, callbacks=[clock], logger=False, **settings).fit(learner, data)
    return clock


def compare(bench: Benchmark, url: str, tool: float, iterations: int, prompts: int) -> None:
    """Train both ways in turn; table iterations a second, and what they spent."""
    clocks: dict[int, list[Clock]] = {0: [], 1: []}
    for _ in range(bench.rounds):
        for max_staleness, found in clocks.items():
            with tempfile.TemporaryDirectory() as directory:
                found.append(train(served(url, directory, max_staleness, iterations, prompts), tool))
    rates = {way: [iterations / (clock.ends[-2] - clock.ends[0]) for clock in found] for way, found in clocks.items()}
    rows = []
    for way, found in clocks.items():
        ratios = [mine / in_time for mine, in_time in zip(rates[way], rates[0], strict=True)]
        counted = [seconds for clock in found for seconds in clock.seconds[1:-1]]
        parts = {f"{name}, s": median(seconds[name] for seconds in counted) for name in SHOWN}
        rows.append({"max_staleness": way, **spread("iterations/s", rates[way]), **spread("ratio", ratios), **parts})
    bench.table(f"A tool call takes {tool:g} s", rows)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8001")
    parser.add_argument("--tools", type=float, nargs="+", default=[0.0, 0.05], help="seconds of a tool call")
    parser.add_argument("--prompts", type=int, default=8, help="of an iteration; an even number")
    parser.add_argument("--iterations", type=int, default=4, help="that are counted of a run")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    configure_process(threads=1, keep_memory=True)
    sizes = {"prompts": arguments.prompts, "iterations": arguments.iterations}
    bench = Benchmark("ahead", torch.device("cpu"), arguments.rounds, sizes)
    for tool in arguments.tools:
        compare(bench, arguments.url, tool, arguments.iterations, arguments.prompts)
    print(bench.write(RESULTS))


if __name__ == "__main__":
    main()
