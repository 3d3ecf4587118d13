"""Training on rollouts of a vLLM server, played in time (data.engine.max_staleness=0) and an iteration ahead (1).

    scripts/serve_policy.sh src/a2tgpo/policies/tiny --dtype float32 --enforce-eager --max-model-len 512 \\
        --gpu-memory-utilization 0.2 --no-enable-chunked-prefill &
    python benchmarks/ahead.py     # with the project installed: pip install --editable .

Both ways train in turn, `--rounds` times, once for each of `--tools`, the seconds that a tool call takes. Counted are
whole iterations between the end of the first and the end of the last but one: what is played ahead of them and what is
played ahead in them is as much.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

from a2tgpo.rollouts.protocols import Environment, StepResult
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.process import configure_process
from a2tgpo.training.ahead import Ahead
from a2tgpo.training.module import A2TGPOModule

ROOT = Path(__file__).resolve().parents[1]
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


def configuration(url: str, directory: str, max_staleness: int, iterations: int, prompts: int) -> DictConfig:
    """A run of the embedded policy with an adapter, sampled by the server."""
    overrides = [
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
    ]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=overrides)


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


def spread(values: list[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


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
    for name, value in (("project_root", ROOT), ("package_dir", ROOT / "src" / "a2tgpo"), ("run_dir", ".")):
        OmegaConf.register_new_resolver(name, lambda *_, value=value: str(value))
    print("| tool call, s | max_staleness | iterations/s, median (least–most) | ratio, by round |", end="")
    print("".join(f" {name}, s |" for name in SHOWN) + "\n|" + "---|" * (4 + len(SHOWN)))
    for tool in arguments.tools:
        clocks: dict[int, list[Clock]] = {0: [], 1: []}
        for _ in range(arguments.rounds):
            for max_staleness, found in clocks.items():
                with tempfile.TemporaryDirectory() as directory:
                    own = (arguments.iterations, arguments.prompts)
                    found.append(train(configuration(arguments.url, directory, max_staleness, *own), tool))
        rates = {k: [arguments.iterations / (c.ends[-2] - c.ends[0]) for c in found] for k, found in clocks.items()}
        for k, found in clocks.items():
            ratio = spread([mine / other for mine, other in zip(rates[k], rates[0], strict=True)])
            counted = [seconds for clock in found for seconds in clock.seconds[1:-1]]
            parts = "".join(f" {median(seconds[name] for seconds in counted):.2f} |" for name in SHOWN)
            print(f"| {tool:g} | {k} | {spread(rates[k], 3)} | {ratio} |{parts}", flush=True)


if __name__ == "__main__":
    main()
