"""How near a credit comes to the oracle's: pure functions of tensors.

Axes: N turns, P prompts, E coordinates of ∇ log π(turn), n batches. Â is the credit of a turn, A* the oracle's. What is
a ratio of sums is given as its sums by prompt, so that prompts can be resampled afterwards.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method.functional import centre

# ---- gradients -------------------------------------------------------------------------------------------------------


def sums(values: Float[Tensor, "N ..."], labels: Int[Tensor, " N"], n_labels: int) -> Float[Tensor, "P ..."]:
    """Σ over the turns of each label."""
    return values.new_zeros(n_labels, *values.shape[1:]).index_add(0, labels, values)


def whitener(gradient: Float[Tensor, "N E"]) -> Float[Tensor, "E E"]:
    """(F + λI)^−½: F = mean of ∇ log π ∇ log πᵀ over turns, λ the mean of its eigenvalues.

    Gradients of turns have a few directions in common; behind it each direction counts about the same.
    """
    values, axes = torch.linalg.eigh(gradient.T @ gradient / len(gradient))
    return axes @ torch.diag((values + values.mean()).rsqrt()) @ axes.T


def cosine(a: Float[Tensor, "*n E"], b: Float[Tensor, "*n E"]) -> Float[Tensor, "*n"]:
    """⟨a, b⟩ / ‖a‖‖b‖; 0 where one is zero."""
    return torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=1e-30)


def signal_to_noise(gradient: Float[Tensor, "n E"]) -> Float[Tensor, ""]:
    """‖E g‖² / tr Cov g of batch gradients g, both estimated without bias, so that pure noise is about 0."""
    noise = gradient.var(dim=0).sum()
    return (gradient.mean(0).square().sum() - noise / len(gradient)) / noise


# ---- turns -----------------------------------------------------------------------------------------------------------


def centred(values: Float[Tensor, " N"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Less the mean of its label; exactly 0 where those of a label are equal."""
    return centre(values[:, None], torch.ones(len(values), 1, dtype=torch.bool), labels[:, None])[:, 0]


def products(
    a: Float[Tensor, " N"], b: Float[Tensor, " N"], prompt: Int[Tensor, " N"], n_prompts: int
) -> Float[Tensor, "P 3"]:
    """Σab, Σaa, Σbb of each prompt: what a correlation of centred values, or a cosine, is made of."""
    return sums(torch.stack([a * b, a * a, b * b], dim=1), prompt, n_prompts)


def correlation(total: Float[Tensor, "*R 3"]) -> Float[Tensor, "*R"]:
    """Σab / √(Σaa Σbb) of `products`; NaN where one of them never differs."""
    return total[..., 0] / (total[..., 1] * total[..., 2]).sqrt()


def counts(values: Float[Tensor, " M"], prompt: Int[Tensor, " M"], n_prompts: int) -> Float[Tensor, "P 2"]:
    """Σ of the values of each prompt, and how many there are: what a mean is made of."""
    return sums(torch.stack([values, torch.ones_like(values)], dim=1), prompt, n_prompts)


def mean(total: Float[Tensor, "*R 2"]) -> Float[Tensor, "*R"]:
    """Σ / number of `counts`; NaN where there is none."""
    return total[..., 0] / total[..., 1]


def sign_agreement(credit: Float[Tensor, " M"], oracle: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """1 where Â and A* have the same sign, 0 where not, ½ where Â is 0."""
    return (1 + credit.sign() * oracle.sign()) / 2


def reciprocal_rank(
    credit: Float[Tensor, " N"], oracle: Float[Tensor, " N"], labels: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " J"], Int[Tensor, " J"]]:
    """1 / rank by |Â| of the turn with the largest |A*| of each label, and that turn. Equal turns take their ranks by
    chance, so each has the mean of 1 / rank over them."""
    ranks, decisive = [], []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        first = oracle[members].abs().argmax()
        size = credit[members].abs()
        above, equal = int((size > size[first]).sum()), int((size == size[first]).sum())
        ranks.append((1 / torch.arange(above + 1, above + equal + 1)).mean())
        decisive.append(members[first])
    return torch.stack(ranks), torch.stack(decisive)


def contrast(
    values: Float[Tensor, " N"], ends: Bool[Tensor, " N"], labels: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " J"], Int[Tensor, " J"]]:
    """Mean over the turns that go on less the mean over those that end the episode, of each label that has both; and
    that label."""
    names, index = labels.unique(return_inverse=True)
    pairs = torch.stack([values, torch.ones_like(values)], dim=1)
    go_on, end = (sums(pairs[kind], index[kind], len(names)) for kind in (~ends, ends))
    both = (go_on[:, 1] > 0) & (end[:, 1] > 0)
    return (mean(go_on) - mean(end))[both], names[both]
