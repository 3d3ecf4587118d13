"""Ours and the usual ways on the same work, in one process: the comparisons of docs/performance.md.

    python -m benchmarks                      # all, on a CPU
    python -m benchmarks scoring credit       # these
    python -m benchmarks --device cuda        # at the sizes of a GPU, in bf16

Needs the project installed (`pip install --editable .`), trl_iteration the extra `trl` too. Leaves
benchmarks/results/NAME.json, on a GPU NAME.cuda.json.
"""

import argparse
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from a2tgpo.system.process import configure_process
from benchmarks.harness import Benchmark, Disagreement

NAMES = ("floors", "credit", "scoring", "update", "vocabulary", "rollouts", "trl_iteration", "memory")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the benchmarks that were asked for."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=kind)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES), default=NAMES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="how often every way is timed")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        parser.error(f"NAME: got {', '.join(unknown)}; expected some of {', '.join(NAMES)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: no GPU is visible; expected one, or --device cpu")
    disable_progress_bar()
    configure_process(threads=1 if arguments.device == "cpu" else "auto", keep_memory=arguments.device == "cpu")
    for name in arguments.names:
        run(name, arguments.device, arguments.rounds, arguments.results)


def run(name: str, device: str, rounds: int, results: Path) -> None:
    """One benchmark at the sizes of `device`; its figures go to the screen and to a file of `results`."""
    module, began = import_module(f"benchmarks.{name}"), time.perf_counter()
    sizes = module.SIZES[device]
    if not sizes:
        print(f"\n{name}: only on a GPU")
        return
    print(f"\n# {name}: {module.__doc__.splitlines()[0]}\n")
    kept = {"works": [asdict(work) for work in sizes]}
    bench = Benchmark(name, torch.device(device), rounds, kept)
    try:
        module.measure(bench, sizes)
    except Disagreement as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        bench.note("Interrupted: what was measured until then.")
        sys.exit(f"interrupted; {bench.write(results)} has what was measured until then")
    print(f"{bench.write(results)}, after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
