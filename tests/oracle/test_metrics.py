"""The figures by hand on a few turns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo.oracle import metrics


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_sums_by_label():
    close(metrics.sums(t(1, 2, 4), torch.tensor([1, 0, 1]), 3), t(2, 5, 0))
    close(metrics.sums(t([1, 0], [2, 1], [4, 4]), torch.tensor([1, 0, 1]), 2), t([2, 1], [5, 4]))


def test_whitening_by_hand():
    # F = diag(9, 1) / 2 = diag(4.5, .5), mean eigenvalue 2.5: divided by √7 and √3.
    close(metrics.whitener(t([3, 0], [0, 1])), torch.diag(t(7, 3).rsqrt()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_whitening_turns_with_the_axes(seed):
    rng = torch.Generator().manual_seed(seed)
    gradient = torch.randn(9, 4, dtype=torch.float64, generator=rng)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=rng))[0]
    ours, turned = gradient @ metrics.whitener(gradient), gradient @ turn @ metrics.whitener(gradient @ turn)
    torch.testing.assert_close(turned @ turned.T, ours @ ours.T, rtol=0, atol=1e-9)


def test_cosine_by_hand():
    close(metrics.cosine(t([3, 4], [1, 0], [0, 0]), t([4, 3], [-2, 0], [1, 1])), t(24 / 25, -1, 0))


def test_signal_to_noise_by_hand_and_of_noise():
    # Mean (2, 0), squared distances from it 1 + 1, so trace of the covariance 2; ‖mean‖² = 4, of which 2/2 is noise.
    close(metrics.signal_to_noise(t([1, 0], [3, 0])), t(1.5)[0])
    noise = torch.randn(1000, 64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    figures = torch.stack([metrics.signal_to_noise(one) for one in noise])
    assert abs(figures.mean()) < 4 * figures.std() / math.sqrt(len(figures))


def test_centred_is_exactly_zero_where_all_are_equal():
    close(metrics.centred(t(1, 3, 5), torch.tensor([7, 7, 2])), t(-1, 1, 0))
    assert not metrics.centred(torch.full((3,), 0.1), torch.zeros(3, dtype=torch.long)).any()


def test_correlation_and_mean_are_made_of_sums_by_prompt():
    a, b, prompt = t(1, -1, 2, -2), t(2, -2, -1, 1), torch.tensor([0, 0, 1, 1])
    parts = metrics.products(a, b, prompt, 2)
    close(parts, t([4, 2, 8], [-4, 8, 2]))
    close(metrics.correlation(parts), t(1, -1))
    close(metrics.correlation(parts.sum(0)), t(0)[0])
    assert metrics.correlation(metrics.products(0 * a, b, prompt, 2)).isnan().all()
    close(metrics.mean(metrics.counts(t(1, 2, 6), torch.tensor([0, 1, 1]), 2)), t(1, 4))


def test_sign_agreement_counts_no_opinion_as_half():
    close(metrics.sign_agreement(t(0.3, -2, 0, 1), t(1, -1, -1, -4)), t(1, 1, 0.5, 0))


def test_rank_of_the_decisive_turn():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    oracle = t(0.1, -0.9, 0.2, 0.5, 0.1, 0, 0, 1)
    credit = t(0.5, -0.4, 0.9, 2, -3, 1, 1, 1)
    ranks, decisive = metrics.reciprocal_rank(credit, oracle, labels)
    last = (1 + 1 / 2 + 1 / 3) / 3  # of three equal turns
    torch.testing.assert_close(ranks.double(), t(1 / 3, 1 / 2, last), rtol=0, atol=1e-7)
    assert decisive.tolist() == [1, 3, 7]


def test_contrast_of_going_on_and_ending():
    values, ends = t(1, 3, -1, 5, 7), torch.tensor([False, False, True, False, True])
    difference, labels = metrics.contrast(values, ends, torch.tensor([4, 4, 4, 6, 9]))
    close(difference, t(3))
    assert labels.tolist() == [4]


def test_loop_and_vectorised_contrast_agree():
    rng = torch.Generator().manual_seed(1)
    values, labels = torch.randn(60, generator=rng, dtype=torch.float64), torch.randint(0, 12, (60,), generator=rng)
    ends = torch.rand(60, generator=rng) < 0.4
    expected = {}
    for label in set(labels.tolist()):
        on, end = (values[(labels == label) & kind] for kind in (~ends, ends))
        if len(on) and len(end):
            expected[label] = float(on.mean() - end.mean())
    difference, found = metrics.contrast(values, ends, labels)
    assert dict(zip(found.tolist(), difference.tolist(), strict=True)) == pytest.approx(expected, abs=1e-12)
