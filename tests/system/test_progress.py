"""Lines about something long come seldom enough; steps are counted."""

from a2tgpo.system import progress
from a2tgpo.system.progress import SECONDS, SlowLines, Steps


def test_lines_are_half_a_minute_apart(monkeypatch):
    now, said = 1000.0, []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = SlowLines(said.append)
    for seconds in range(1, 100):
        now = 1000.0 + seconds
        lines(f"after {seconds}")
    assert said == ["after 30", "after 60", "after 90"] and SECONDS == 30
    lines.said()  # somebody has said something else after 99
    for seconds in range(100, 130):
        now = 1000.0 + seconds
        lines(f"after {seconds}")
    assert said[3:] == ["after 129"]


def test_steps_are_told_from_none_to_all_and_anew():
    told, steps = [], Steps()
    steps.begin(2)
    steps.told = lambda done, total: told.append((done, total))
    for total in (2, 1):
        steps.begin(total)
        for _ in range(total):
            steps.step()
    assert told == [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1)]
