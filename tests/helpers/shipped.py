"""Parts with the settings of their yaml in `configs/`, but for what a test changes."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from a2tgpo.embedded.placement import Placement
from a2tgpo.embedded.questions import QuestionMix
from a2tgpo.embedded.world import WorldSize
from a2tgpo.environments.dialects.text_tags import TextTags
from a2tgpo.environments.dialects.tool_calls import ToolCalls
from a2tgpo.environments.passages import PassageLayout
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.pretrained import load_policy
from a2tgpo.retrievers.corpus_bm25 import CorpusBM25
from tests.helpers.experiments import CONFIGS


def settings(file: str, part: str | None = None) -> dict[str, Any]:
    """The values in `configs/<file>.yaml`, or in the node `part` of it."""
    config = OmegaConf.load(CONFIGS / f"{file}.yaml")
    values = OmegaConf.to_container(config[part] if part else config, resolve=False)
    return {name: value for name, value in values.items() if name not in ("_target_", "defaults")}


def examples(name: str) -> dict[str, Any]:
    """The worked episodes of that name."""
    return settings(f"data/dialect/examples/{name}")


def passage_layout(**changes: Any) -> PassageLayout:
    return PassageLayout(**settings("data/dialect/text_tags", "layout") | changes)


def text_tags(prompt_template: str, answer_wrapper: tuple[str, ...], **changes: Any) -> TextTags:
    given = {
        "prompt_template": prompt_template,
        "answer_wrapper": answer_wrapper,
        "layout": passage_layout(),
        "examples": {},
    }
    return TextTags(**settings("data/dialect/text_tags") | given | changes)


def tool_calls(prompt_template: str, answer_wrapper: tuple[str, ...], **changes: Any) -> ToolCalls:
    layout = PassageLayout(**settings("data/dialect/tool_calls", "layout"))
    given = {"prompt_template": prompt_template, "answer_wrapper": answer_wrapper, "layout": layout, "examples": {}}
    return ToolCalls(**settings("data/dialect/tool_calls") | given | changes)


def world_size(preset: str = "quick") -> WorldSize:
    return WorldSize(**settings(f"data/tasks/embedded_{preset}", "size"))


def question_mix(preset: str = "quick", **changes: Any) -> QuestionMix:
    return QuestionMix(**settings(f"data/tasks/embedded_{preset}", "mix") | changes)


def placement(**changes: Any) -> Placement:
    return Placement(**settings("data/tasks/embedded_credit", "placement") | changes)


def pretrained_policy(path: Path | str, **changes: Any) -> Policy:
    """The policy in the folder `path`; all of its weights are trained."""
    return load_policy(**settings("model/policy/pretrained") | {"path": str(path)} | changes)


def corpus_bm25(corpus_path: Path | str, cache_dir: Path | str, **changes: Any) -> CorpusBM25:
    given = {"corpus_path": str(corpus_path), "cache_dir": str(cache_dir)}
    return CorpusBM25(**settings("data/retriever/bm25") | given | changes)
