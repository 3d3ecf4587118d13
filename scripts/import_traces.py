"""Trajectories of another trainer as a run directory, for the viewer and for comparing credits.

python scripts/import_traces.py traces.jsonl --format openai --output imported --model PATH model.combiner.alpha=0.3
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from a2tgpo.traces.to_run import placed, recorded_model, require_new, write_run
from a2tgpo.traces.trace import Trace

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))
from error_lines import stop_in_one_line
from launch import CONFIGS, prepare_process, quiet_libraries, require_settings

FORMATS = {"openai": "openai_messages", "atif": "atif"}
"""Module of `a2tgpo.traces` that reads a format."""
USED = ["seed", "threads", "paths", "data", "model", "trainer"]
"""Of the configuration; the rest speaks of a run directory of its own."""
TOLD = ("experiment", "overrides")
"""What a run was told, as far as its page shows it."""
NO_SIGNAL = {"_target_": "a2tgpo.method.signals.none.NoSignal"}


def import_traces(file: Path, form: str, output: Path, model: str | None, overrides: Sequence[str]) -> None:
    """Write the trajectories of `file` as the run directory `output`. Raises ValueError where they are none."""
    traces = placed(import_module(f"a2tgpo.traces.{FORMATS[form]}").read(file))
    require_new(output)
    # here, because it takes seconds: what is wrong with the file is said before
    from a2tgpo.traces.crediting import has_credit, recorded_rows

    anew = model is not None or bool(overrides) or not has_credit(traces)
    if anew:
        config = composed(model, overrides)
        rows, made_of, said = credited(traces, config, model)
        told = {"experiment": _experiment(overrides), "overrides": list(overrides)}
    else:
        rows, made_of, said, origin = [*recorded_rows(traces)], recorded_model(traces), "as recorded", traces[0].origin
        told = {"experiment": None, "overrides": []} | {key: origin[key] for key in TOLD if key in origin}
    source = {"file": str(file), "format": form, "model": model}
    write_run(output, traces, rows, {"model": made_of, "callbacks": {"summary": told}, "imported": source})
    groups = {tuple(trace.facts[key] for key in ("iteration", "rank", "group")) for trace in traces}
    print(f"{len(traces)} trajectories of {len(groups)} groups; credit: {said}: {output}")


def composed(model: str | None, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run with these overrides and this model. Raises ValueError where it cannot work."""
    prepare_process()
    words = [
        f"experiment={_experiment(overrides)}",
        "paths.output_dir=.",
        *(o for o in overrides if not o.startswith("experiment=")),
    ]
    if model is not None:
        words += ["model/policy=pretrained", f"model.policy.path={model}"]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("train", words)
    return OmegaConf.masked_copy(config, USED)


def _experiment(overrides: Sequence[str]) -> str:
    named = [o.removeprefix("experiment=") for o in overrides if o.startswith("experiment=")]
    return named[-1] if named else "a2tgpo"


def credited(
    traces: Sequence[Trace], config: DictConfig, model: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Rows with the credit of this configuration, what it is made of, and where its gains come from."""
    from a2tgpo.evaluation.evaluate import move
    from a2tgpo.system.process import configure_process, device_of, precision_context
    from a2tgpo.traces.crediting import Crediting

    require_settings(config, ("threads", "model.method", "model.module"))
    quiet_libraries()
    configure_process(config.threads, keep_memory=True)
    method = instantiate(config.model.method, _convert_="all")
    made_of = OmegaConf.to_container(config.model, resolve=True)
    made_of = {part: made_of[part] for part in ("signal", "credit", "clipper")}
    if model is None:
        crediting = Crediting(method)
        if not crediting.gives_gains(traces):
            rows = list(crediting.rows(traces))
            return rows, made_of | {"signal": NO_SIGNAL}, "outcome alone, no gains: nobody knows the beliefs (--model)"
        return list(crediting.rows(traces)), made_of, "assigned anew, from the beliefs that were recorded"
    device = device_of(config.trainer.accelerator)
    policy = instantiate(config.model.policy, _convert_="all")
    move(policy, device)
    settings = config.model.module
    crediting = Crediting(method, policy, tuple(settings.answer_wrapper), settings.micro_batch_tokens)
    with precision_context(device, config.trainer.precision):
        return list(crediting.rows(traces)), made_of, f"assigned anew, from the beliefs of {model}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the run directory, a new folder")
    parser.add_argument("--model", help="a Hugging Face folder or hub id, whose beliefs are scored")
    parser.add_argument("overrides", nargs="*", help="of the composition that assigns credit (experiment=a2tgpo)")
    arguments = parser.parse_intermixed_args()
    with stop_in_one_line():
        import_traces(arguments.file, arguments.format, arguments.output, arguments.model, arguments.overrides)


if __name__ == "__main__":
    main()
