"""The folders that `make test-real` makes. Every test here is of its lane."""

from pathlib import Path

import pytest

from tests.helpers.tiny_runs import ROOT

MODELS = ROOT / ".cache" / "models"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(1500))


def _folder(name: str) -> Path:
    folder = MODELS / name
    assert folder.is_dir(), f"no folder {folder}; make test-real makes it"
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct."""
    return _folder("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M, the base model."""
    return _folder("gemma3")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, an encoder of 384 numbers."""
    return _folder("minilm")
