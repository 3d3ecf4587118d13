"""Linear regression that never sees the group it predicts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CONSTANT = 1e-10
"""Share of its mean square below which a column's variance is rounding: it says nothing and has no weight."""


def leave_one_group_out_ridge(
    features: Float[Tensor, "N F"], target: Float[Tensor, " N"], group_ids: Int[Tensor, " N"], penalty: float
) -> Float[Tensor, " N"]:
    """Prediction of each row by a ridge regression over the rows of all other groups, which must be there.

    min_w Σ (y − ȳ − w·z)² + penalty · |w|², z the columns in standard deviations from their mean. One pass: the sums of
    squares of all rows, less those of the group's own. N rows, F columns.
    """
    groups, index = torch.unique(group_ids, return_inverse=True)
    rows = torch.cat([features, target[:, None]], 1).double()
    origin, square = rows.mean(0), rows.square().mean(0)
    rows = rows - origin  # changes no prediction, and keeps the digits of the sums
    own = rows.new_zeros(len(groups), rows.shape[1]).index_add(0, index, rows)
    products = rows[:, :, None] * rows[:, None, :]
    own_products = rows.new_zeros(len(groups), *products.shape[1:]).index_add(0, index, products)
    n_others = (len(rows) - index.bincount())[:, None]
    mean = (own.sum(0) - own) / n_others
    covariance = (own_products.sum(0) - own_products) / n_others[..., None] - mean[:, :, None] * mean[:, None, :]
    variance = covariance.diagonal(dim1=1, dim2=2)[:, :-1]
    scale = torch.where(variance > CONSTANT * square[:-1], variance.clamp(min=0).sqrt(), torch.inf)
    correlation = covariance[:, :-1, :-1] / scale[:, :, None] / scale[:, None, :]
    ridge = n_others[..., None] * correlation + penalty * torch.eye(features.shape[1], dtype=rows.dtype)
    slope = torch.linalg.solve(ridge, n_others * covariance[:, :-1, -1] / scale) / scale
    predicted = origin[-1] + mean[index, -1] + ((rows - mean[index])[:, :-1] * slope[index]).sum(1)
    return predicted.to(target.dtype)
