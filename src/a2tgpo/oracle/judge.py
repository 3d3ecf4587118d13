"""The figures of a credit: its gradients and turns held against those of the forks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.evaluation.bootstrap import bootstrap
from a2tgpo.method.method import Method
from a2tgpo.method.protocols import ReferenceSignal
from a2tgpo.method.turns import TurnCredit
from a2tgpo.oracle import metrics
from a2tgpo.oracle.forked import JUDGING, Forked
from a2tgpo.system.errors import SettingError

SURE = 2.0
"""Standard errors that |A*| of a turn must exceed where its sign or its rank is asked."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """A figure and its standard error."""

    value: float
    error: float


def over_batches(values: Float[Tensor, " n"]) -> Figure:
    """Mean of the batches, and its standard error."""
    spread = values.std() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Figure(float(values.mean()), float(spread))


@dataclass(frozen=True)
class Fidelity:
    """How near a credit comes to the oracle's: its figures by name, and the whitened cosine of each batch."""

    figures: dict[str, Figure]
    batches: Float[Tensor, " n"]

    def less(self, other: "Fidelity") -> Figure:
        """By how much its whitened cosine exceeds that of another credit, batch by batch."""
        return over_batches(self.batches - other.batches)


@dataclass(frozen=True)
class Judge:
    """Holds credits against `forked`, `batch_prompts` prompts at a time, as many as a credit would see of a run."""

    forked: Forked
    batch_prompts: int

    @cached_property
    def prompt(self) -> Int[Tensor, " B"]:
        """Number of each trajectory's prompt."""
        return self.forked.batch.group_ids.unique(return_inverse=True)[1]

    @cached_property
    def batch_of_prompt(self) -> Int[Tensor, " P"]:
        """Number of the batch of each prompt; the batches are of equal size, but for one prompt."""
        n_prompts = int(self.prompt.max()) + 1
        n_batches = max(n_prompts // self.batch_prompts, 1)
        return torch.arange(n_prompts) * n_batches // n_prompts

    def assigned(self, method: Method) -> Iterator[tuple[list[int], TurnCredit]]:
        """Rows of each batch and the credit of their turns; a credit that remembers remembers the batches before.

        Raises SettingError for a signal that asks for beliefs of a reference: those of the forks are the policy's own.
        """
        if isinstance(method.signal, ReferenceSignal):
            raise SettingError("model/signal: its beliefs are a reference's; expected a signal of the policy's own")
        memory = dict[str, Tensor]()
        for batch in self.batch_of_prompt.unique():
            rows = (self.batch_of_prompt[self.prompt] == batch).nonzero()[:, 0].tolist()
            yield rows, method.assign(self.forked.observed(rows, method.signal.answers), memory)

    def credit(self, method: Method) -> Float[Tensor, "B T"]:
        """Â of every turn. Raises what `assigned` does."""
        advantage = torch.zeros(self.forked.batch.turn_mask.shape)
        for rows, credit in self.assigned(method):
            advantage[rows, : credit.advantage.shape[1]] = credit.advantage
        return advantage

    # ---- what is known of the turns --------------------------------------------------------------------------------

    @cached_property
    def mask(self) -> Bool[Tensor, "B T"]:
        """The turns."""
        return self.forked.batch.turn_mask

    @cached_property
    def oracle(self) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """A* of every turn and its standard error."""
        return self.forked.advantage(JUDGING)[self.mask], self.forked.advantage_error(JUDGING)[self.mask]

    @cached_property
    def places(self) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Row, depth and prompt of every turn."""
        row, depth = self.mask.nonzero(as_tuple=True)
        return row, depth, self.prompt[row]

    @cached_property
    def gradients(self) -> dict[str, Float[Tensor, "N E"]]:
        """∇ log π of every turn, as it is and whitened."""
        plain = self.forked.turn_gradient
        return {"whitened ": plain @ metrics.whitener(plain), "": plain}

    # ---- figures ---------------------------------------------------------------------------------------------------

    def fidelity(self, advantage: Float[Tensor, "B T"]) -> Fidelity:
        """All figures of a credit."""
        credit = advantage[self.mask]
        figures: dict[str, Figure] = {}
        cosines: dict[str, Tensor] = {}
        for name, gradient in self.gradients.items():
            ours, oracles = (self._by_prompt(values, gradient) for values in (credit, self.oracle[0]))
            cosines[name] = metrics.cosine(self._by_batch(ours), self._by_batch(oracles))
            figures[f"{name}cosine"] = over_batches(cosines[name])
            both = torch.cat([ours, oracles], dim=1)
            figures[f"{name}cosine of the mean"] = _resampled(both, lambda t: metrics.cosine(*t.chunk(2, dim=-1)))
            noise = metrics.signal_to_noise(self._by_batch(ours))
            figures[f"{name}signal to noise"] = Figure(float(noise), math.nan)
        return Fidelity(figures | self._of_turns(advantage), cosines["whitened "])

    def _by_prompt(self, values: Float[Tensor, " N"], gradient: Float[Tensor, "N E"]) -> Float[Tensor, "P E"]:
        """Σ Â ∇ log π of each prompt."""
        return metrics.sums(values[:, None] * gradient, self.places[2], len(self.batch_of_prompt))

    def _by_batch(self, gradient: Float[Tensor, "P E"]) -> Float[Tensor, "n E"]:
        return metrics.sums(gradient, self.batch_of_prompt, int(self.batch_of_prompt.max()) + 1)

    def _of_turns(self, advantage: Float[Tensor, "B T"]) -> dict[str, Figure]:
        credit, (oracle, error), (row, depth, prompt) = advantage[self.mask], self.oracle, self.places
        n_prompts, n_turns = len(self.batch_of_prompt), self.mask.shape[1]
        sure = oracle.abs() > SURE * error
        rank, decisive = metrics.reciprocal_rank(credit, oracle, row)
        several = self.mask.sum(1)[row[decisive]] > 1
        asked = sure[decisive] & several
        agreement = metrics.sign_agreement(credit[sure], oracle[sure])
        figures = {
            "reciprocal rank": averaged(rank[asked], prompt[decisive[asked]], n_prompts),
            "sign": averaged(agreement, prompt[sure], n_prompts),
        }
        turn = prompt * n_turns + depth
        for name, labels in (("within trajectories", row), ("within prompt and depth", turn)):
            pair = (metrics.centred(values, labels) for values in (credit, oracle))
            figures[f"correlation {name}"] = correlated(*pair, prompt, n_prompts)
        ends = ~self.forked.batch.process_mask[self.mask]
        (ours, labels), (oracles, _) = (metrics.contrast(values, ends, turn) for values in (credit, oracle))
        figures["search or answer"] = correlated(ours, oracles, labels // n_turns, n_prompts)
        earned = self.forked.batch.outcome - self.forked.value(JUDGING)[:, 0]
        figures["conservation"] = correlated(advantage.sum(1), earned, self.prompt, n_prompts)
        return figures


def averaged(values: Float[Tensor, " M"], prompt: Int[Tensor, " M"], n_prompts: int) -> Figure:
    """The mean of `values`, and its standard error over prompts."""
    return _resampled(metrics.counts(values, prompt, n_prompts), metrics.mean)


def correlated(a: Float[Tensor, " M"], b: Float[Tensor, " M"], prompt: Int[Tensor, " M"], n_prompts: int) -> Figure:
    return _resampled(metrics.products(a, b, prompt, n_prompts), metrics.correlation)


def _resampled(sums: Float[Tensor, "P m"], figure: Callable[[Tensor], Tensor]) -> Figure:
    """`figure` of the sums over all prompts, and its standard deviation over bootstrap samples of the prompts."""
    replicates = figure(torch.from_numpy(bootstrap(sums.numpy(), np.random.default_rng(0), RESAMPLES)))
    known = replicates[replicates.isfinite()]
    return Figure(float(figure(sums.sum(0))), float(known.std()) if len(known) > 1 else math.nan)
