"""scripts/calibration.py: its table by hand."""

import sys

from a2tgpo.embedded.questions import NARROWING
from a2tgpo.evaluation.calibration import BeliefState
from tests.helpers.tiny_runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import calibration


def test_a_row_for_each_family_and_number_of_results(tmp_path):
    states = [
        BeliefState("2", 0, 0.0, 0.25),
        BeliefState("comparison", 0, 0.5, 0.75),
        BeliefState(NARROWING, 1, 0.25, 0.5),
        BeliefState(NARROWING, 1, 0.75, 0.5),
        BeliefState(NARROWING, 2, 1.0, 1.0),  # alone: no row of its own
    ]
    assert calibration.rows("start", states) == [
        "| start | chains, 0 results | 2 | 0.250 | 0.500 | 0.250 | 1.00 |",
        "| start | narrowing, 1 results | 2 | 0.500 | 0.500 | 0.250 | – |",
        "| start | all | 5 | 0.500 | 0.600 | 0.200 | 0.83 |",
    ]
    calibration.draw({"start": states}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
