"""The trajectories of a run in another format: ATIF, OpenAI chat messages, a log of Inspect, traces of verifiers.

python scripts/export_traces.py logs/train/runs/RUN --format atif
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from a2tgpo.environments.protocols import Tool
from a2tgpo.environments.tools.schema import read_tool
from a2tgpo.traces.from_run import Speech, read_traces
from a2tgpo.viewer.run_data import read_config

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))
from error_lines import stop_in_one_line

FORMATS = {
    "atif": ("atif", "atif.jsonl"),
    "openai": ("openai_messages", "openai.jsonl"),
    "inspect": ("inspect_log", "inspect.eval"),
    "verifiers": ("verifiers", "traces.jsonl"),
}
"""Module of `a2tgpo.traces` that writes a format, and what a file of it is called."""


def export(run: Path, form: str, output: Path | None) -> None:
    """Write all trajectories of `run`. Raises ValueError where it is none."""
    module, name = FORMATS[form]
    path = output or run / "traces" / name
    traces = read_traces(run, speech(run))
    import_module(f"a2tgpo.traces.{module}").write(traces, path)
    print(f"{len(traces)} trajectories: {path}")


def speech(run: Path) -> Speech | None:
    """How the policy of `run` spoke, from its configuration; None where that names no dialect.

    Raises ValueError where a part of it cannot be imported.
    """
    config = read_config(run)
    data = config.get("data") or {}
    if not data.get("dialect"):
        return None
    try:
        told = (data.get("environment") or {}).get("tools") or {}
        tools = [_tool(name, settings) for name, settings in told.items()]
        return Speech(instantiate(data["dialect"], _convert_="all"), tools)
    except (ImportError, InstantiationException) as error:
        raise ValueError(
            f"{run / 'config.yaml'}: {str(error).splitlines()[0]}; expected parts that can be imported (PYTHONPATH)"
        ) from error


def _tool(name: str, settings: Mapping[str, Any]) -> Tool:
    """The tool as the policy was told of it. It is not built: what it searches may be elsewhere by now."""
    target = get_object(settings["_target_"])
    bound = {key: value for key, value in settings.items() if not key.startswith("_")}
    function = partial(target.__call__, None) if isclass(target) else partial(target, **bound)
    return read_tool(name, function).tool


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, help="the file (RUN/traces/…)")
    arguments = parser.parse_args()
    with stop_in_one_line():
        export(arguments.run, arguments.format, arguments.output)


if __name__ == "__main__":
    main()
