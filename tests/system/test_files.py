"""Files of a run: whole or not at all, in UTF-8, with their name in the error."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from a2tgpo.system.checkpoint_io import AtomicCheckpointIO
from a2tgpo.system.files import read_json_file, whole_file, write_json
from a2tgpo.system.jsonl import write_jsonl
from tests.helpers.tiny_runs import ROOT


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as file:
        file.write("ù 東京\r\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "ù 東京\r\n".encode()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whoever_dies_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as file:
        file.write("new")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.fixture
def no_room():
    """Files take a thousand bytes and no more."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def write_checkpoint(path, text):
    AtomicCheckpointIO().save_checkpoint({text: torch.zeros(len(text))}, path)


def write_object(path, text):
    write_json(path, {"a": text})


@pytest.mark.parametrize("write", [write_object, write_checkpoint])
def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one(tmp_path, no_room, write):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as error:
        write(path, "a" * 2000)
    assert error.value.filename == str(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[]", b"\xff"])
def test_a_broken_json_file_is_named(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected") as error:
        read_json_file(path)
    assert str(error.value).startswith(f"{path}: ")


def test_files_are_utf8_whatever_the_locale(tmp_path):
    code = """
from pathlib import Path
from a2tgpo.system.files import whole_file
from a2tgpo.system.jsonl import write_jsonl
write_jsonl(Path("a.jsonl"), [{"a": "\\u00f9"}])
with whole_file(Path("b.md")) as file:
    file.write("\\u00f9")
"""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | plain, check=True)
    assert json.loads((tmp_path / "a.jsonl").read_bytes()) == {"a": "ù"}
    assert (tmp_path / "b.md").read_bytes() == "ù".encode()


def test_json_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "a.json", {"a": 0.1, "ù": None})
    assert read_json_file(tmp_path / "a.json") == {"a": 0.1, "ù": None}
    write_jsonl(tmp_path / "b.jsonl", [{"a": "ù"}])
    assert (tmp_path / "b.jsonl").read_bytes() == '{"a": "ù"}\n'.encode()
