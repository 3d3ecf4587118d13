"""Every key that a yaml of `configs/` gives a value, as it is written on the command line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tests.helpers.experiments import CONFIGS


def leaves(node: Mapping[str, Any], under: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything inside `node` that is no mapping, or an empty one."""
    for name, value in node.items():
        key = f"{under}.{name}".removeprefix(".")
        if isinstance(value, Mapping) and value:
            yield from leaves(value, key)
        else:
            yield key, value


def place(path: Path) -> str:
    """Where the values of a file stand in the composed configuration."""
    group = path.relative_to(CONFIGS).parent.as_posix()
    return "" if group == "." or path.read_text().startswith("# @package _global_") else group.replace("/", ".")


def files() -> list[Path]:
    """The yamls that ship, but for settings of Hydra itself."""
    paths = [path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")]
    return sorted(CONFIGS / path for path in paths if path.parts[0] not in ("local", "hydra", "hparams_search"))


def is_number(value: Any) -> bool:
    """A number, or a list of numbers."""
    values = value if isinstance(value, list) and value else [value]
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


VALUES: dict[str, list[Any]] = {}
"""Key → what the yamls say; interpolations as they are written."""
NUMBERS: dict[str, Any] = {"questions": 1, "data.tasks.limit": 1}
"""Those that are numbers, with the first of them. The two named here are null in the yamls."""
FILES: dict[str, list[Path]] = {}
"""Key → the files that give it a value."""

for file in files():
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    content = {name: value for name, value in content.items() if name not in ("defaults", "hydra")}
    for key, value in leaves(content, place(file)):
        VALUES.setdefault(key, []).append(value)
        FILES.setdefault(key, []).append(file)
        if is_number(value):
            NUMBERS.setdefault(key, value)
