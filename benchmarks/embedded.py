"""The embedded task as `experiment=a2tgpo` composes it, and what its policy reads."""

from collections import Counter
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.training.datamodule import RolloutDataModule
from a2tgpo.training.module import A2TGPOModule

ROOT = Path(__file__).resolve().parents[1]


def configuration(*overrides: str) -> DictConfig:
    """What `src/train.py` would be told, but for its run directory."""
    for name, value in (("project_root", str(ROOT)), ("package_dir", str(ROOT / "src" / "a2tgpo")), ("run_dir", ".")):
        OmegaConf.register_new_resolver(name, lambda *_, value=value: value, replace=True)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def load() -> tuple[RolloutDataModule, A2TGPOModule]:
    """Data module and learner of `experiment=a2tgpo`, without a reference."""
    config = configuration("experiment=a2tgpo", "model/reference=none")
    return (
        instantiate(config.data.module, _convert_="all"),
        instantiate(config.model.module, _convert_="all"),
    )


def first_rollout_set(data: RolloutDataModule, learner: A2TGPOModule) -> list[Trajectory]:
    """What `make train` begins with, but for its seed."""
    prompts = list(enumerate(data.draw_tasks(0)))
    return data.rollout.run(learner.policy, prompts, data.group_size, (0, 0, 0), greedy=False)


class Meter:
    """Counts the token positions that go through a policy's model (`forwarded`), and those of them that its head
    projects to the vocabulary (`projected`)."""

    def __init__(self, policy: Policy) -> None:
        self.counts: Counter[str] = Counter()
        policy.model.register_forward_pre_hook(self._forwarded, with_kwargs=True)
        policy.model.get_output_embeddings().register_forward_hook(self._projected)

    def _forwarded(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.counts["forwarded"] += (args[0] if args else kwargs["input_ids"]).numel()

    def _projected(self, module: torch.nn.Module, args: tuple, logits: torch.Tensor) -> None:
        self.counts["projected"] += logits[..., 0].numel()

    def take(self) -> Counter[str]:
        """What was counted since it was asked last."""
        taken, self.counts = self.counts, Counter()
        return taken
