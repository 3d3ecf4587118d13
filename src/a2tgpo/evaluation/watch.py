"""What a person sees while a question set is played."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from a2tgpo.system.progress import SlowLines, Steps, Told, nobody


@contextmanager
def watched(name: str, episodes: Steps, console: Console) -> Iterator[None]:
    """Say how many `episodes` of the set are over: a bar on a terminal, elsewhere a line now and then."""
    with ExitStack() as shown:
        if console.is_terminal:
            episodes.told = _in_bar(name, console, shown)
        else:
            lines = SlowLines(lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False))
            episodes.told = lambda done, total: lines(f"{name}: {done} of {total} episodes")
        shown.callback(setattr, episodes, "told", nobody)
        yield


def _in_bar(name: str, console: Console, shown: ExitStack) -> Told:
    """Draws what it is told in a bar, which goes with `shown`."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True, expand=True)
    task = shown.enter_context(bar).add_task(name, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
