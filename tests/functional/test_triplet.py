"""Triplet losses and their gradients against every triplet written out, hand cases, properties, mining."""

from __future__ import annotations

import itertools

import pytest
import torch

from functional.triplet import (
    bounded_triplet_loss,
    flip_pairs,
    mine_triplets,
    pair_distances,
    same_class,
    triplet_loss,
    two_margin_loss,
)


def every_triplet(labels):
    count = range(len(labels))
    return [
        (a, p, n)
        for a, p, n in itertools.product(count, count, count)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]


def written_out(x, labels, term, squared):
    """Mean of a term over all triplets, from differences of coordinates."""
    a, p, n = torch.tensor(every_triplet(labels.tolist())).unbind(1)

    def distance(i, j):
        d = (x[i] - x[j]).square().sum(1)
        return d if squared else d.sqrt()

    return term(distance(a, p), distance(a, n)).mean()


def plus(value):
    return value.clamp_min(0)


LOSSES = {
    "triplet": (lambda x, y, s: triplet_loss(x, y, 1.0, squared=s), lambda p, n: plus(p - n + 1.0)),
    "wide": (lambda x, y, s: triplet_loss(x, y, 30.0, squared=s), lambda p, n: plus(p - n + 30.0)),
    "sum": (
        lambda x, y, s: bounded_triplet_loss(x, y, 1.0, 0.5, weight=0.7, squared=s),
        lambda p, n: plus(p - n + 1.0) + 0.7 * plus(p - 0.5),
    ),
    "nested": (
        lambda x, y, s: bounded_triplet_loss(x, y, 1.0, 3.0, form="nested", squared=s),
        lambda p, n: plus(p - n + 1.0 + plus(p - 3.0)),
    ),
    "two_margin": (
        lambda x, y, s: two_margin_loss(x, y, 30.0, 4.0, squared=s),
        lambda p, n: plus(30.0 - n) + plus(p - 4.0),
    ),
}


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_all_triplets(name, squared):
    loss, term = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (64,), generator=generator)
    labels[0] = 7  # a class of one is negative to all and anchor of none
    ours, expected = loss(x, labels, squared), written_out(x, labels, term, squared)
    assert float((ours - expected).detach().abs()) < 1e-9
    (gradient,), (truth,) = torch.autograd.grad(ours, x), torch.autograd.grad(expected, x)
    assert float((gradient - truth).abs().max()) < 1e-12


def test_hand_case():
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    same = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]]).bool()
    # One triplet, anchor 0: for the others no pair counts as the same but with themselves.
    same[1] = torch.tensor([1, 1, 1]).bool()
    same[2] = torch.tensor([1, 1, 1]).bool()
    assert float(triplet_loss(x, same, 1.0)) == 0
    assert float(triplet_loss(x, same, 4.0)) == 1
    assert float(bounded_triplet_loss(x, same, 4.0, 0.5)) == 1.5
    loss = two_margin_loss(x, same, 5.0, 0.5)
    assert float(loss) == 1.5
    assert torch.autograd.grad(loss, x)[0].flatten().tolist() == [2.0, 2.0, -4.0]


def clusters():
    """Two classes that satisfy margins 1 and 3."""
    x = torch.tensor([[0.0, 0], [0.9, 0], [0, 9], [0.9, 9]], dtype=torch.float64)
    return x, torch.tensor([0, 0, 1, 1])


def test_scaling_up_keeps_the_triplet_loss_at_zero_but_not_the_two_margin_loss():
    x, labels = clusters()
    assert float(triplet_loss(x, labels)) == float(two_margin_loss(x, labels)) == 0
    assert float(triplet_loss(2 * x, labels)) == 0
    assert float(two_margin_loss(2 * x, labels)) == pytest.approx(4 * 0.81 - 1)


@pytest.mark.parametrize("loss", [triplet_loss, bounded_triplet_loss, two_margin_loss])
def test_ties_half_precision_and_batches_without_triplets(loss):
    same_point = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    value = loss(same_point, labels, squared=False)
    assert float(value) == (3.0 if loss is two_margin_loss else 1.0)
    assert torch.isfinite(torch.autograd.grad(value, same_point)[0]).all()
    for alone in (torch.zeros(6), torch.arange(6)):
        value = loss(same_point, alone)
        assert float(value) == 0
        assert float(torch.autograd.grad(value, same_point)[0].abs().max()) == 0
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    wide = loss(x.bfloat16().float(), torch.arange(32) % 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(x.bfloat16(), torch.arange(32) % 4)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(wide), rel=1e-5)


@pytest.mark.parametrize("mining", ["random", "semi-hard", "batch-hard"])
def test_mining_chooses_what_it_says(mining):
    generator = torch.Generator().manual_seed(2)
    x, labels = torch.randn(40, 2, generator=generator, dtype=torch.float64), torch.arange(40) % 4
    distances, same = pair_distances(x), labels[:, None] == labels
    triplets = mine_triplets(distances, same, mining, torch.Generator().manual_seed(3))
    assert set(zip(*(index.tolist() for index in triplets), strict=True)) <= set(every_triplet(labels.tolist()))
    d = distances.tolist()
    for a, p, n in zip(*(index.tolist() for index in triplets), strict=True):
        others = [j for j in range(40) if labels[j] != labels[a]]
        friends = [j for j in range(40) if labels[j] == labels[a] and j != a]
        if mining == "semi-hard":
            beyond = [j for j in others if d[a][j] > d[a][p]]
            assert n == (min(beyond, key=d[a].__getitem__) if beyond else max(others, key=d[a].__getitem__))
        if mining == "batch-hard":
            assert p == max(friends, key=d[a].__getitem__)
            assert n == min(others, key=d[a].__getitem__)
    assert len(triplets[0]) == (40 * 9 if mining == "semi-hard" else 40)
    a, p, n = triplets
    expected = (distances[a, p] - distances[a, n] + 1).clamp_min(0).mean()
    ours = triplet_loss(x, labels, mining=mining, generator=torch.Generator().manual_seed(3))
    assert float(ours) == pytest.approx(float(expected), rel=1e-12)
    expected = ((distances[a, p] - 0.1).clamp_min(0) + (5 - distances[a, n]).clamp_min(0)).mean()
    ours = two_margin_loss(x, labels, 5, 0.1, mining=mining, generator=torch.Generator().manual_seed(3))
    assert float(ours) == pytest.approx(float(expected), rel=1e-12)


def test_random_triplets_follow_their_generator_and_average_to_all():
    x, labels = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    draws = [
        float(triplet_loss(x, labels, mining="random", generator=torch.Generator().manual_seed(seed)))
        for seed in range(400)
    ]
    again = triplet_loss(x, labels, mining="random", generator=torch.Generator().manual_seed(5))
    assert draws[5] == float(again) != draws[6]
    assert sum(draws) / 400 == pytest.approx(float(triplet_loss(x, labels)), rel=0.05)


def test_pair_noise_has_its_rates_and_is_symmetric():
    same = (torch.arange(400) % 4)[:, None] == torch.arange(400) % 4
    noisy = flip_pairs(same, 0.3, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(noisy, noisy.mT)
    assert noisy.diagonal().all()
    off = ~torch.eye(400, dtype=torch.bool)
    assert float((~noisy)[same & off].float().mean()) == pytest.approx(0.3, abs=0.015)
    assert float(noisy[~same].float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(flip_pairs(same, 0, 0), same)


def test_far_from_the_origin_distances_stay_accurate():
    x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) + 1000
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(pair_distances(x, squared=False).double(), exact, atol=2e-3, rtol=0)


def test_compiled_loss_is_the_same():
    x, labels = torch.randn(32, 8, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 4
    compiled = torch.compile(triplet_loss, backend="aot_eager")
    assert float(compiled(x, labels)) == pytest.approx(float(triplet_loss(x, labels)), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: triplet_loss(x, y, -1.0), "alpha=-1.0 must not be negative"),
        (lambda x, y: two_margin_loss(x, y, 1.0, 1.0), "beta=1.0 must be below alpha=1.0"),
        (lambda x, y: bounded_triplet_loss(x, y, form="both"), "form='both' is not one of sum, nested"),
        (lambda x, y: triplet_loss(x, y, mining="hard"), "mining='hard' is not one of all, random"),
        (lambda x, y: triplet_loss(x, y[:3]), r"needed are classes \(4,\)"),
        (lambda x, y: triplet_loss(x[0], y), r"needed is \(B, D\)"),
        (lambda x, y: flip_pairs(same_class(x, y), 2, 0), "false_negatives=2 is a share"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))


def test_diagonal_of_given_pairs_does_not_matter():
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    same = labels[:, None] == labels
    without = same & ~torch.eye(12, dtype=torch.bool)
    for loss in (triplet_loss, bounded_triplet_loss, two_margin_loss):
        assert loss(x, without) == loss(x, same) == loss(x, labels)


@pytest.mark.parametrize("mining", ["all", "random", "semi-hard", "batch-hard"])
def test_no_embeddings_have_no_loss(mining):
    x, labels = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long)
    for loss in (triplet_loss, bounded_triplet_loss, two_margin_loss):
        value = loss(x, labels, mining=mining)
        assert value == 0
        value.backward()
