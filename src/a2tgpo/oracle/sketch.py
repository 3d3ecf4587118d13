"""Gradients of millions of weights in a few hundred numbers that keep their inner products."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class CountSketch:
    """Each weight's gradient is added, with a random sign, to one of `width` buckets: E⟨Sx, Sy⟩ = ⟨x, y⟩.

    Charikar et al. 2002. The variance of an inner product is at most (‖x‖²‖y‖² + ⟨x, y⟩²) / width.
    """

    width: int
    buckets: Sequence[Int[Tensor, "..."]]
    """For each weight tensor, the bucket of each entry."""
    signs: Sequence[Int[Tensor, "..."]]

    @classmethod
    def of(cls, weights: Sequence[nn.Parameter], width: int, seed: int) -> "CountSketch":
        """A sketch of the gradients of `weights`."""
        rng = torch.Generator().manual_seed(seed)
        buckets = [torch.randint(width, (w.numel(),), dtype=torch.int32, generator=rng) for w in weights]
        signs = [torch.randint(2, (w.numel(),), dtype=torch.int8, generator=rng) * 2 - 1 for w in weights]
        device = weights[0].device
        return cls(width, [b.to(device) for b in buckets], [s.to(device) for s in signs])

    def __call__(self, gradients: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, " D"]:
        """One vector of `width` entries."""
        result = gradients[0].new_zeros(self.width, dtype=torch.float32)
        for gradient, buckets, signs in zip(gradients, self.buckets, self.signs, strict=True):
            result.index_add_(0, buckets, gradient.float().flatten() * signs)
        return result


def principal_coordinates(
    vectors: Float[Tensor, "N D"], counts: Int[Tensor, " N"], n_axes: int
) -> tuple[Float[Tensor, "N E"], float]:
    """Coordinates on the first `n_axes` principal axes of the second moment F = Σ countₙ vₙvₙᵀ / Σ countₙ, in units of
    √tr F, the root mean square length; and the share of tr F that these axes keep. Angles within them stay."""
    values, axes = torch.linalg.svd(counts.sqrt()[:, None] * vectors, full_matrices=False)[1:]
    energy = values.square()
    length = (energy.sum() / counts.sum()).sqrt()
    return vectors @ axes[:n_axes].T / length, float(energy[:n_axes].sum() / energy.sum())
