"""Forks of a policy before a run, in its middle and late in it, for `make credit`.

    python scripts/make_forks.py quick

makes those of the embedded task that ship; overrides behind the name, those of train.py, say of which other task and
policy. It trains at a constant learning rate, so that the middle is on the way; then each policy's states are forked.
"""

import argparse
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FROZEN = ROOT / "src" / "a2tgpo" / "oracle" / "frozen"
FORKS = ("frozen=null", "budget=inf", "samples=8")


def run(script: str, directory: Path, *overrides: str) -> None:
    """`python src/<script> …`, with its output on the screen. Raises CalledProcessError where it fails."""
    command = [sys.executable, str(ROOT / "src" / script), *overrides, f"hydra.run.dir={directory}"]
    subprocess.run(command, check=True, cwd=ROOT)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the set, whose files are <name>-start.npz, <name>-middle.npz, <name>-late.npz")
    parser.add_argument("overrides", nargs="*", help="of the run")
    parser.add_argument("--output", type=Path, default=FROZEN)
    parser.add_argument("--middle", type=int, default=5, help="iteration of the middle checkpoint")
    parser.add_argument("--late", type=int, default=20, help="iteration of the late one")
    parser.add_argument("--questions", type=int, default=64, help="of which eight episodes each are forked")
    parser.add_argument("--continuations", type=int, default=64, help="forks of a state")
    arguments = parser.parse_args()
    out = ROOT / "logs" / "forks" / f"{arguments.name}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    size = (f"questions={arguments.questions}", f"continuations={arguments.continuations}")

    def train(iterations: int, *resumed: str) -> Path:
        """The checkpoint after as many iterations."""
        epochs = f"trainer.max_epochs={iterations}"
        run("train.py", out / "run", *arguments.overrides, "model/scheduler=constant", epochs, *resumed)
        return Path(shutil.copy(out / "run" / "checkpoints" / "last.ckpt", out / f"{iterations}.ckpt"))

    def fork(policy: str, *weights: str) -> None:
        save = f"save={(arguments.output / f'{arguments.name}-{policy}.npz').resolve()}"
        run("credit.py", out / policy, *arguments.overrides, *FORKS, *size, *weights, save)

    middle = train(arguments.middle)
    late = train(arguments.late, f"ckpt_path={out / 'run' / 'checkpoints' / 'last.ckpt'}")
    fork("start")
    fork("middle", f"ckpt_path={middle}")
    fork("late", f"ckpt_path={late}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)  # the command itself has said why
