"""The run to which nothing happens."""

import pytest

from tests.faults.moments import fault, moments
from tests.faults.runs import run_dir, train


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """(directory, names of its moments) of a run that nothing happened to."""
    logs = tmp_path_factory.mktemp("whole")
    code, output, errors = train(*fault(-1, "none", logs / "diary"), f"paths.log_dir={logs}")
    assert code == 0, output + errors
    return run_dir(logs), [name for _, name in moments(logs / "diary")]
