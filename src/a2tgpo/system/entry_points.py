"""Where the entry points are and how they are called: files of `src/` in a checkout, console scripts once installed."""

import re
import runpy
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
COMMANDS = PACKAGE / "commands"
"""Where a wheel has the files of `src/`; beside it are the configs, as in a checkout."""
NAMES = ("train", "eval", "check", "credit", "warm_up", "serve", "export", "view")
PREFIX = "a2tgpo-"
"""Of the console scripts."""


def installed() -> bool:
    """Is this a package that was installed from a wheel, rather than a checkout?"""
    return COMMANDS.is_dir()


def home() -> Path:
    """What a run's files are under: the checkout, or the current directory of an installed package."""
    return Path.cwd() if installed() else PACKAGE.parents[1]


def as_called(text: str) -> str:
    """`text` with each `python src/NAME.py` of it as that entry point is called here."""
    if not installed():
        return text
    return re.sub(rf"(?<![\w/.])(?:python )?src/({'|'.join(NAMES)})\.py\b", lambda found: script(found[1]), text)


def script(name: str) -> str:
    """The console script of an entry point: `a2tgpo-warm-up` of `warm_up`."""
    return PREFIX + name.replace("_", "-")


def main() -> None:
    """Every console script: run the file of its name as `python` would, which looks for modules beside it."""
    folder = COMMANDS if installed() else PACKAGE.parent
    (name,) = (name for name in NAMES if script(name) == Path(sys.argv[0]).stem)
    sys.path[0] = str(folder)
    runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
