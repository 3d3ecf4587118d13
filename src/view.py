"""See every turn of a run: one HTML file, or one group in the terminal.

python src/view.py logs/train/runs/<time>            # writes view.html there
python src/view.py logs/train/runs/<time> --text     # prints one group with its arithmetic
"""

import argparse
from pathlib import Path

from a2tgpo.system.entry_points import as_called
from a2tgpo.viewer.page import PAGE, write_page
from a2tgpo.viewer.run_data import read_run
from a2tgpo.viewer.text import choose, tell
from error_lines import stop_in_one_line


def view(arguments: argparse.Namespace) -> None:
    """Write the page, or print the group."""
    run = read_run(arguments.run)
    if arguments.text:
        print(tell(choose(run, arguments.iteration, arguments.group), run.composition))
        return
    path = arguments.output or arguments.run / PAGE
    write_page(run, path)
    print(f"{len(run.groups)} of {run.n_groups} groups, {path.stat().st_size / 1e6:.1f} MB: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog=as_called("python src/view.py"),
        description=as_called(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, help="the HTML file (RUN/view.html)")
    parser.add_argument("--text", action="store_true", help="print one group instead")
    parser.add_argument("--iteration", type=int, help="of --text: the iteration (the last)")
    parser.add_argument("--group", type=int, help="of --text: the group (the one whose advantages differ most)")
    with stop_in_one_line():
        view(parser.parse_args())
