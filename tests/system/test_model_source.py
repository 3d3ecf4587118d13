"""A folder that is not there is named at once; a hub is asked only for what can be one of its ids."""

import pytest

from a2tgpo.system.model_source import require_model_source, why_unread


@pytest.mark.parametrize("path", ["/nowhere/model", ".cache/models/nope", "./nope", "~/models/nope", "a/b/c", "nope/"])
def test_a_folder_that_is_not_there_is_refused_by_name(path):
    with pytest.raises(ValueError, match=rf"^model\.policy\.path={path}: no such folder; expected a .* or a hub id$"):
        require_model_source("model.policy.path", path)


def test_a_file_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^model\.policy\.path=config\.json: no such folder"):
        require_model_source("model.policy.path", "config.json")


@pytest.mark.parametrize("path", ["Qwen/Qwen3-0.6B", "gpt2", "intfloat/e5-base-v2"])
def test_a_hub_id_may_be_asked_for(path):
    require_model_source("model.policy.path", path)
    assert why_unread(path, OSError("no connection")) == "no such folder, and as a hub id: no connection"


def test_of_a_folder_that_is_there_no_hub_is_spoken_of(tmp_path):
    require_model_source("model.policy.path", str(tmp_path))
    assert why_unread(str(tmp_path), OSError("no weights")) == "no weights"
