"""How entry points are called, in a checkout and installed. What a wheel really installs: tests/test_installed.py."""

import tomllib

import pytest

from a2tgpo.system import entry_points
from tests.helpers.tiny_runs import ROOT

SHARED = {"launch", "run_directories", "error_lines"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Entry points as a wheel has them; the current directory is empty."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(entry_points, "COMMANDS", tmp_path)
    monkeypatch.chdir(tmp_path / "empty")


def test_every_entry_point_has_its_script():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {*entry_points.NAMES} == {path.stem for path in (ROOT / "src").glob("*.py")} - SHARED
    assert scripts == {entry_points.script(name): "a2tgpo.system.entry_points:main" for name in entry_points.NAMES}


def test_a_checkout_is_called_by_its_files_and_keeps_its_runs():
    assert entry_points.as_called("next: python src/eval.py a=b") == "next: python src/eval.py a=b"
    assert entry_points.home() == ROOT


def test_an_installed_package_is_called_by_its_scripts_and_runs_stay_where_one_is(installed, tmp_path):
    said = "a.ckpt: written by src/train.py; python src/warm_up.py path=/my/src/eval.py, src/other.py"
    told = "a.ckpt: written by a2tgpo-train; a2tgpo-warm-up path=/my/src/eval.py, src/other.py"
    assert entry_points.as_called(said) == told
    assert entry_points.home() == tmp_path / "empty"


def test_what_the_dockerfile_copies_is_there():
    ignored = (ROOT / ".dockerignore").read_text()
    copies = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    for name in (name for names in copies for name in names):
        assert (ROOT / name).exists() and f"!{name}\n" in ignored
