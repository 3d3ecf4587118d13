"""Sketches keep inner products, on average exactly; principal axes keep what is in their span."""

import math

import torch
from torch import nn

from a2tgpo.oracle.gradients import sketched_gradients, trained_weights, turn_gradients
from a2tgpo.oracle.sketch import CountSketch, principal_coordinates
from a2tgpo.scoring.batch import collate
from tests.helpers.build import build_trajectory

WEIGHTS = [nn.Parameter(torch.zeros(7, 9)), nn.Parameter(torch.zeros(31))]


def gradients(seed):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(weight.shape, generator=rng) for weight in WEIGHTS]


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


def test_a_sketch_is_the_signed_sum_in_its_buckets():
    sketch, parts = CountSketch.of(WEIGHTS, 5, seed=3), gradients(0)
    expected = [0.0] * 5
    for part, buckets, signs in zip(parts, sketch.buckets, sketch.signs, strict=True):
        for value, bucket, sign in zip(part.flatten().tolist(), buckets.tolist(), signs.tolist(), strict=True):
            assert sign in (-1, 1)
            expected[bucket] += sign * value
    torch.testing.assert_close(sketch(parts), torch.tensor(expected), rtol=0, atol=1e-5)


def test_sketched_inner_products_are_unbiased_with_the_variance_of_theory():
    x, y, width = gradients(1), gradients(2), 16
    sketches = [CountSketch.of(WEIGHTS, width, seed) for seed in range(2000)]
    products = torch.stack([sketch(x) @ sketch(y) for sketch in sketches])
    true, sizes = flat(x) @ flat(y), flat(x).square().sum() * flat(y).square().sum()
    assert abs(products.mean() - true) < 4 * products.std() / math.sqrt(len(products))
    assert products.var() <= 1.15 * (sizes + true**2) / width


def test_principal_coordinates_keep_angles_within_their_span():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 3, generator=rng) @ torch.randn(3, 40, generator=rng)
    counts = torch.randint(1, 5, (12,), generator=rng)
    whole, kept = principal_coordinates(vectors, counts, 3)
    assert whole.shape == (12, 3) and abs(kept - 1) < 1e-5
    scale = (counts * vectors.square().sum(1)).sum() / counts.sum()
    torch.testing.assert_close(whole @ whole.T, vectors @ vectors.T / scale, rtol=0, atol=1e-4)
    assert abs(float((counts * whole.square().sum(1)).sum() / counts.sum()) - 1) < 1e-4
    _, less = principal_coordinates(vectors, counts, 2)
    energy = torch.linalg.svdvals(counts.sqrt()[:, None] * vectors).square()
    assert abs(less - float(energy[:2].sum() / energy.sum())) < 1e-5


def test_gradient_of_a_turn_is_that_of_its_tokens_alone(random_policy):
    trajectories = [
        build_trajectory(random_policy, ["<search> Varo</search>", "<answer> Bemi</answer>"], ["<result> Varo."])
    ]
    batch = collate(trajectories, 0)
    first, second = ([*parts] for parts in turn_gradients(random_policy, batch, [(0, 0), (0, 1)]))
    weights = trained_weights(random_policy)
    for turn, parts in ((0, first), (1, second)):
        random_policy.model.zero_grad()
        logits = random_policy.model(batch.input_ids).logits[0].log_softmax(-1)
        own = (batch.turn_ids[0] == turn).nonzero()[:, 0]
        logits[own - 1, batch.input_ids[0, own]].sum().backward()
        for weight, part in zip(weights, parts, strict=True):
            torch.testing.assert_close(part, weight.grad, rtol=1e-3, atol=1e-4)
    random_policy.model.zero_grad(set_to_none=True)
    sketched = sketched_gradients(random_policy, batch, [(0, 0), (0, 1)], 64, seed=0)
    sketch = CountSketch.of(weights, 64, seed=0)
    torch.testing.assert_close(sketched, torch.stack([sketch(first), sketch(second)]), rtol=0, atol=1e-4)
