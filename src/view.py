"""See every turn of a run: one HTML file, or one group in the terminal.

python src/view.py logs/train/runs/<time>            # writes view.html there
python src/view.py logs/train/runs/<time> --text     # prints one group with its arithmetic
python src/view.py logs/train/runs/<time> --beside model/credit=turn_leave_one_out
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from a2tgpo.system.entry_points import as_called
from a2tgpo.viewer.page import PAGE, write_page
from a2tgpo.viewer.run_data import read_config, read_run
from a2tgpo.viewer.text import choose, tell
from error_lines import stop_in_one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from a2tgpo.viewer.beside import Beside


def view(arguments: argparse.Namespace) -> None:
    """Write the page, or print the group."""
    other = beside(arguments.run, arguments.beside) if arguments.beside else None
    run = read_run(arguments.run, other=other)
    if arguments.text:
        print(tell(choose(run, arguments.iteration, arguments.group), run))
        return
    path = arguments.output or arguments.run / PAGE
    write_page(run, path)
    print(f"{len(run.groups)} of {run.n_groups} groups, {path.stat().st_size / 1e6:.1f} MB: {path}")


def beside(run: Path, words: Sequence[str]) -> "Beside":
    """The method of another run, or of this one with overrides."""
    # here, because they take seconds
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from a2tgpo.viewer.beside import Beside

    own = OmegaConf.create(read_config(run))
    if len(words) == 1 and Path(words[0]).is_dir():
        other, name = OmegaConf.create(read_config(Path(words[0]))), Path(words[0]).resolve().name
    else:
        other, name = composed(run, words), " ".join(words)
    return Beside(name, *(instantiate(config.model.method, _convert_="all") for config in (own, other)))


def composed(run: Path, overrides: Sequence[str]) -> "DictConfig":
    """The configuration of a run like this one, but for `overrides`."""
    from hydra import compose, initialize_config_dir

    from launch import CONFIGS, LIKE, prepare_process, spelt_out

    prepare_process()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return compose("train", overrides=spelt_out([f"{LIKE}{run}", *overrides]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog=as_called("python src/view.py"),
        description=as_called(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, help="the HTML file (RUN/view.html)")
    parser.add_argument("--text", action="store_true", help="print one group instead")
    parser.add_argument("--iteration", help="of --text: the iteration (the last), or 'N forks'")
    parser.add_argument("--group", type=int, help="of --text: the group (the one whose advantages differ most)")
    parser.add_argument(
        "--beside",
        nargs="+",
        metavar="OTHER",
        help="another credit: overrides of this run, or a run whose credit it is",
    )
    with stop_in_one_line():
        view(parser.parse_args())
