"""What a person sees while a question set is played: a bar on a terminal, lines elsewhere, nothing afterwards."""

import io

import pytest
from rich.console import Console

from a2tgpo.evaluation.watch import watched
from a2tgpo.system.progress import Steps, nobody


def play(episodes, total):
    episodes.begin(total)
    for _ in range(total):
        episodes.step()


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 5), (30.0, 0)])
def test_lines_come_where_there_is_no_terminal_and_it_takes_long(monkeypatch, seconds, lines):
    monkeypatch.setattr("a2tgpo.system.progress.SECONDS", seconds)
    screen, episodes = io.StringIO(), Steps()
    with watched("nq", episodes, Console(file=screen)):
        play(episodes, 4)
    assert screen.getvalue().splitlines() == [f"nq: {done} of 4 episodes" for done in range(lines)]
    assert episodes.told is nobody


def test_a_bar_counts_episodes_on_a_terminal_and_goes(monkeypatch):
    screen, episodes = io.StringIO(), Steps()
    with pytest.raises(RuntimeError), watched("nq", episodes, Console(file=screen, force_terminal=True, width=80)):
        play(episodes, 4)
        raise RuntimeError
    assert "nq" in screen.getvalue() and "4/4" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in screen.getvalue()  # the cursor is back
    assert episodes.told is nobody
