"""Linear regression that never sees the group it predicts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CONSTANT = 1e-10
"""Share of its mean square below which a column's variance is rounding: it says nothing and has no weight."""


def moments(
    features: Float[Tensor, "N F"], target: Float[Tensor, " N"], labels: Int[Tensor, " N"], n_labels: int
) -> Float[Tensor, "G F+2 F+2"]:
    """Σ rrᵀ over the rows of each label, r = (features, target, 1): all that a regression needs to know of them."""
    rows = torch.cat([features, target[:, None], torch.ones_like(target)[:, None]], 1).double()
    products = rows[:, :, None] * rows[:, None, :]
    return products.new_zeros(n_labels, *products.shape[1:]).index_add(0, labels, products)


def leave_one_group_out_ridge(
    features: Float[Tensor, "N F"],
    target: Float[Tensor, " N"],
    group_ids: Int[Tensor, " N"],
    penalty: float,
    earlier: Float[Tensor, "F+2 F+2"] | None = None,
) -> Float[Tensor, " N"]:
    """Prediction of each row by a ridge regression over the rows of all other groups, and over those of which `earlier`
    are the moments. There must be one.

    min_w Σ (y − ȳ − w·z)² + penalty · |w|², z the columns in standard deviations from their mean. One pass: the moments
    of all rows, less those of the group's own. N rows, F columns.
    """
    groups, index = torch.unique(group_ids, return_inverse=True)
    own = moments(features, target, index, len(groups))
    others = own.sum(0) - own + (0.0 if earlier is None else earlier)
    n_others = others[:, -1:, -1:]
    mean = others[:, -1, :-1] / n_others[:, 0]
    square = others[:, :-1, :-1] / n_others
    covariance = square - mean[:, :, None] * mean[:, None, :]
    variance, size = (matrix.diagonal(dim1=1, dim2=2)[:, :-1] for matrix in (covariance, square))
    scale = torch.where(variance > CONSTANT * size, variance.clamp(min=0).sqrt(), torch.inf)
    correlation = covariance[:, :-1, :-1] / scale[:, :, None] / scale[:, None, :]
    ridge = n_others * correlation + penalty * torch.eye(features.shape[1], dtype=own.dtype)
    slope = torch.linalg.solve(ridge, n_others[..., 0] * covariance[:, :-1, -1] / scale) / scale
    predicted = mean[index, -1] + ((features.double() - mean[index, :-1]) * slope[index]).sum(1)
    return predicted.to(target.dtype)
