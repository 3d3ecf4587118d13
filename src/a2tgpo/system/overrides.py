"""What the overrides of a run say: about which model and data it is, and about the method."""

from collections.abc import Sequence

CARRIED = ("experiment=", "preset=", "data", "model", "trainer", "threads=", "hydra.searchpath=")
"""Beginnings of the overrides that a like run has too."""
SAME_METHOD = ("seed", "experiment", "paths", "hydra", "callbacks", "logger", "ckpt_path", "threads")
"""Parts of a configuration that make it no other method or task, or have a key of their own in a summary."""
METHOD = ("signal", "outcome", "normalizer", "accumulator", "combiner", "credit", "ratio", "clipper", "surrogate")
METHOD += ("aggregation", "correction", "method", "module.kl_coef")
"""The parts of `model` in which methods differ."""


def place(override: str) -> str:
    """What it sets or chooses, as the path of its value: `model.outcome.` of `model/outcome=centre`."""
    return override.lstrip("+~").partition("=")[0].replace("/", ".") + "."


def is_of_method(override: str) -> bool:
    """Does it set or choose a part in which methods differ?"""
    return place(override).startswith(tuple(f"model.{part}." for part in METHOD))


def method_overrides(overrides: Sequence[str]) -> str:
    """Those of `overrides` that make it another method or task, sorted, in one line."""
    elsewhere = tuple(f"{part}." for part in SAME_METHOD)
    return " ".join(sorted(override for override in overrides if not place(override).startswith(elsewhere)))


def carried(overrides: Sequence[str]) -> list[str]:
    """Those of `overrides` that say which experiment, model, data and trainer it is."""
    return [override for override in overrides if override.lstrip("+~").startswith(CARRIED)]


def taken_over(earlier: Sequence[str], given: Sequence[str]) -> list[str]:
    """The overrides of an `earlier` run, its experiment among them, that also hold where others are `given`: what these
    set or choose is theirs, and of another experiment the method is its own."""
    places = tuple(place(override) for override in given)
    another = any(override.startswith("experiment=") and override not in earlier for override in given)
    return [o for o in carried(earlier) if not place(o).startswith(places) and not (another and is_of_method(o))]
