"""One group in the terminal: its numbers are those of the hand, its texts cannot steer the terminal."""

import argparse

import pytest

import view
from a2tgpo.viewer.run_data import read_run
from a2tgpo.viewer.text import choose, plain, tell
from tests.helpers.viewed_run import GROUP, group, leave_viewed_run


def asked(run, **options):
    return argparse.Namespace(
        run=run, **{"output": None, "text": False, "iteration": None, "group": None, "beside": None} | options
    )


def test_the_arithmetic_of_a_turn(tmp_path, capsys):
    view.view(asked(leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP}), text=True))
    text = capsys.readouterr().out
    second = text.partition("trajectory 1")[2].partition("turn 2")[0]
    assert second.splitlines()[1:] == [
        "  turn 1",
        "    action   ask for Kinu",
        "    result   Kinu has a king",
        "    belief   0.05 → 0.35",
        "    gain     ig = 0.3; turn group: mean 0.2, σ 0.1, n 2",
        "             îg = (ig − mean) / σ = 1",
        "    to come  D = Σ γᵏ⁻ᵗ îg = 1, terms = 2, γ = 1",
        "    credit   Â = α·D/√terms + R̂ = 0.35355 + 1 = 1.3536, α = 0.5",
        "    clip     ratio in [1 − 0.011386, 1 + 0.022773], c = 1 + β(2·sigmoid(îg) − 1) = 1.1386, β = 0.3",
        "    after    ratio 1 behind the last step: not clipped",
        "    useful   yes: new evidence of the task",
        "  ",
    ]
    assert (
        "    after    ratio 0.98413 behind the last step: clipped\n    useful   no: no new evidence of the task\n"
        in text
    )
    assert "Â = α·D/√terms + R̂ = -0.5 + -1 = -1.5" in text
    assert "iteration 1, rank 0, group 0: Who rules Kinu?\naccepted: Nore\n2 trajectories, 1 solved" in text


def test_a_ratio_that_moved_against_its_advantage_is_named(tmp_path):
    run = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": group(ratio=[1.25, 1.25, 1.0])[:1]}))
    assert "ratio 1.25 behind the last step: clipped, moved by 2.5e-01 against Â (other turns" in tell(
        run.groups[0], run
    )


def test_a_gain_within_the_resolution_says_so(tmp_path):
    lines = group()
    for one in lines:
        one["normalized_gain"][0] = 0.0
    run = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": lines}))
    assert "îg = 0, as the gains differ by less than model.normalizer.resolution" in tell(run.groups[0], run)


def test_a_group_is_chosen(tmp_path):
    dull = [one | {"group": 7, "advantage": [0.0] * len(one["turns"])} for one in group()]
    run = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP, "000002-rank0": [*dull, *group()]}))
    assert [
        (g.iteration, g.number) for g in (choose(run, None, None), choose(run, "1", None), choose(run, None, 7))
    ] == [
        (2, 0),
        (1, 0),
        (2, 7),
    ]
    with pytest.raises(ValueError, match=r"--iteration 5: expected one of 1, 2"):
        choose(run, "5", None)
    with pytest.raises(ValueError, match=r"--group 3: expected one of 7, 0"):
        choose(run, None, 3)


def test_a_text_cannot_steer_the_terminal(tmp_path):
    assert plain("a\x1b[2J\u202eb\tc\nd\r") == "a⟨U+001B⟩[2J⟨U+202E⟩b\tc\nd⟨U+000D⟩"
    lines = group(question="\x1b]0;mine\x07")
    lines[0]["turns"][0] |= {"action": "\x1b[31mred", "observation": "\u202e"}
    run = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": lines}))
    text = tell(run.groups[0], run)
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text


def test_the_page_is_written_where_it_is_asked_for(tmp_path, capsys):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    view.view(asked(run))
    assert capsys.readouterr().out == f"1 of 1 groups, 0.1 MB: {run / 'view.html'}\n"
    view.view(asked(run, output=tmp_path / "other.html"))
    assert (tmp_path / "other.html").read_bytes() == (run / "view.html").read_bytes()
