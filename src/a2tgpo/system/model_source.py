"""A model is a folder of this machine, or a hub id."""

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def require_model_source(key: str, path: str) -> None:
    """Raises ValueError naming `key` where `path` is no folder and can be no hub id, so that no hub is asked for it."""
    if not Path(path).is_dir() and (Path(path).exists() or not _HUB_ID.fullmatch(path)):
        raise ValueError(f"{key}={path}: no such folder; expected a Hugging Face model folder or a hub id")


def why_unread(path: str, error: Exception) -> str:
    """What a library said of the model `path`, and where it is from."""
    return str(error) if Path(path).is_dir() else f"no such folder, and as a hub id: {error}"
