"""A²TGPO on one page (arXiv 2605.06200): what each turn is worth, and how far a step may go.

Every part is a field, so a rival is another composition. Trainers call three verbs: `assign` once a rollout set,
`weigh` once a mini-batch, `loss` once a micro-batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method.accumulators.variance_rescaled import VarianceRescaled
from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.clippers.adaptive_turn import AdaptiveTurn
from a2tgpo.method.combiners.additive import Additive
from a2tgpo.method.corrections.none import NoCorrection
from a2tgpo.method.credits.staged import StagedCredit
from a2tgpo.method.functional import clipped, to_tokens
from a2tgpo.method.normalizers.prompt_group import PromptGroup
from a2tgpo.method.normalizers.turn_group import TurnGroup
from a2tgpo.method.protocols import Aggregation, Clipper, Correction, Credit, Ratio, Signal, Surrogate
from a2tgpo.method.ratios.turn import TurnRatio
from a2tgpo.method.signals.information_gain import InformationGain
from a2tgpo.method.surrogates.ppo import PPO
from a2tgpo.method.turns import CreditInputs, Observed, TurnCredit
from a2tgpo.system.distributed import all_gather_rows, local_rows, rank_and_world_size


@dataclass(frozen=True)
class Method:
    """A composition of strategies; it knows no algorithm by name."""

    signal: Signal
    credit: Credit
    clipper: Clipper
    ratio: Ratio
    surrogate: Surrogate
    aggregation: Aggregation
    correction: Correction

    @torch.no_grad()
    def assign(self, observed: Observed, memory: dict[str, Tensor] | None = None) -> TurnCredit:
        """Gain (eq. 3), advantage (eq. 9) and clip bounds (eq. 11) of every turn of this rank.

        Ranks hold whole groups, but credit may compare groups: it sees the turns of all ranks. What it keeps from one
        rollout set to the next it writes into `memory`, equal on all ranks; the caller holds it and saves it.
        """
        gains = self.signal(observed)
        rank, n_ranks = rank_and_world_size()
        everyone = CreditInputs(
            turn_mask=all_gather_rows(observed.turn_mask, False),
            gain=all_gather_rows(gains.gain, 0.0),
            gain_mask=all_gather_rows(gains.gain_mask, False),
            gain_noise=all_gather_rows(torch.zeros_like(gains.gain) if gains.noise is None else gains.noise, 0.0),
            belief=all_gather_rows(gains.belief, 0.0),
            outcome=all_gather_rows(observed.outcome, 0.0),
            group_ids=all_gather_rows(observed.group_ids, 0),
            state_ids=all_gather_rows(observed.state_ids * n_ranks + rank, 0),
            node_ids=all_gather_rows(observed.node_ids * n_ranks + rank, -1),
            action_ids=all_gather_rows(observed.action_ids * n_ranks + rank, 0),
            n_new_pieces=all_gather_rows(observed.n_new_pieces, 0),
            value=None if observed.value is None else all_gather_rows(observed.value, 0.0),
            memory=memory,
        )
        outputs = self.credit(everyone)
        low, high = self.clipper(outputs.normalized_gain)
        n_trajectories, n_turns = observed.turn_mask.shape
        own = local_rows(n_trajectories)
        return TurnCredit(
            gain=gains.gain,
            gain_mask=gains.gain_mask,
            belief=gains.belief,
            normalized_gain=outputs.normalized_gain[own, :n_turns],
            advantage=outputs.advantage[own, :n_turns],
            turn_credit=outputs.turn_credit[own, :n_turns],
            clip_low=low[own, :n_turns],
            clip_high=high[own, :n_turns],
        )

    @torch.no_grad()
    def weigh(
        self,
        turn_ids: Int[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        rollout_logprobs: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Share of each token of this rank's rows in the loss of the global mini-batch (eq. 12), times the correction
        for what the engine's policy was not the trainer's; 0 where no action token is."""
        n_trajectories, n_tokens = turn_ids.shape
        share = self.aggregation(all_gather_rows(turn_ids, -1))[local_rows(n_trajectories), :n_tokens]
        return share * self.correction(old_logprobs, rollout_logprobs, turn_ids)

    def loss(
        self,
        logprobs: Float[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
        credit: TurnCredit,
        loss_weight: Float[Tensor, "B L"],
    ) -> tuple[Float[Tensor, ""], Bool[Tensor, "B L"]]:
        """Σ loss_weight · surrogate over the action tokens (eq. 12), with gradient through `logprobs`; and which
        tokens' gradient the bounds zero."""
        log_ratio = self.ratio(logprobs, old_logprobs, turn_ids)
        advantage, low, high = (to_tokens(x, turn_ids) for x in (credit.advantage, credit.clip_low, credit.clip_high))
        loss = (loss_weight * self.surrogate(log_ratio, logprobs, advantage, low, high)).sum()
        return loss, clipped(log_ratio.detach(), advantage, low, high)


PAPER = Method(
    signal=InformationGain(gain="prob", baseline="query", aliases="first"),
    credit=StagedCredit(
        outcome=PromptGroup(resolution=1e-6),
        normalizer=TurnGroup(resolution="auto"),
        accumulator=VarianceRescaled(gamma=1.0),
        combiner=Additive(alpha=1.0),
    ),
    clipper=AdaptiveTurn(beta=0.3, eps_low=3e-3, eps_high=4e-3),
    ratio=TurnRatio(),
    surrogate=PPO(),
    aggregation=SeqMeanTokenMean(),
    correction=NoCorrection(),
)
"""A²TGPO with the paper's values; `dataclasses.replace` changes a part."""
