"""Meta-gradients against the closed forms of a quadratic task, and against finite differences."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from functional.meta_learning import linear_decay, maml_gradient, reptile_gradient, sgd_step

PHI, GOAL, ALPHA, STEPS = -1.0, 3.0, 0.1, 5
SHRUNK = (1 - ALPHA) ** STEPS


def quadratic(players):
    return 0.5 * (players["only"]["t"] - GOAL).square()


def step(players, number, keep_graph):
    return {"only": sgd_step(lambda own: quadratic({"only": own}), players["only"], ALPHA, keep_graph)}


def start():
    return {"only": {"t": torch.tensor(PHI, dtype=torch.float64, requires_grad=True)}}


def adapted():
    players = start()
    for number in range(STEPS):
        players = step(players, number, False)
    return players["only"]["t"]


def test_adaptation_and_reptile_of_the_quadratic():
    end = adapted().detach()
    assert end.item() == pytest.approx(GOAL + SHRUNK * (PHI - GOAL))
    assert end.item() == pytest.approx(0.63804, abs=1e-5)
    (gradient,) = reptile_gradient([start()["only"]["t"]], [[end]])
    assert -0.25 * gradient.item() == pytest.approx(-0.25 * (1 - SHRUNK) * (PHI - GOAL))
    assert -0.25 * gradient.item() == pytest.approx(0.40951, abs=1e-5)


@pytest.mark.parametrize(("first_order", "expected"), [(True, -2.36196), (False, -1.39471)])
def test_maml_of_the_quadratic(first_order, expected):
    phi = start()
    gradients, losses = maml_gradient(step, lambda p: {"only": quadratic(p)}, phi, STEPS, first_order)
    assert gradients["only"]["t"].item() == pytest.approx(SHRUNK ** (1 if first_order else 2) * (PHI - GOAL))
    assert gradients["only"]["t"].item() == pytest.approx(expected, abs=1e-5)
    assert losses["only"].item() == pytest.approx(0.5 * (adapted().item() - GOAL) ** 2)
    assert phi["only"]["t"].item() == PHI
    assert phi["only"]["t"].grad is None


def test_reptile_with_one_step_is_plain_descent_and_with_full_size_it_moves_to_the_mean():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2).double(), torch.randn(5, 3, dtype=torch.float64)
    names = dict(net.named_parameters())
    eps, alpha = 0.3, 0.2
    moved = sgd_step(lambda own: torch.func.functional_call(net, own, x).square().mean(), names, alpha)
    gradient = reptile_gradient(list(names.values()), [list(moved.values())])
    plain = copy.deepcopy(net)
    optimizer = torch.optim.SGD(plain.parameters(), lr=eps * alpha)
    plain(x).square().mean().backward()
    optimizer.step()
    for value, slope, expected in zip(net.parameters(), gradient, plain.parameters(), strict=True):
        torch.testing.assert_close(value - eps * slope, expected)
    tasks = [[torch.randn_like(value) for value in net.parameters()] for _ in range(3)]
    for index, (value, slope) in enumerate(
        zip(net.parameters(), reptile_gradient(list(net.parameters()), tasks), strict=True)
    ):
        torch.testing.assert_close(value - slope, torch.stack([task[index] for task in tasks]).mean(0))
    with pytest.raises(ValueError, match="at least one adapted task"):
        reptile_gradient(list(net.parameters()), [])


def test_maml_of_a_game_equals_finite_differences_of_each_player():
    """Two small networks that act on each other; only a player's own loss counts for it."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=draws, dtype=torch.float64)
    flat = {
        "maker": torch.randn(3, 3, generator=draws, dtype=torch.float64),
        "judge": torch.randn(3, generator=draws, dtype=torch.float64),
    }

    def losses(players):
        made = torch.tanh(x @ players["maker"]["w"])
        scores = torch.tanh(made * 2) @ players["judge"]["v"]
        return {"judge": (scores - 1).square().mean(), "maker": -scores.mean() + (made - x).square().mean()}

    def game_step(players, number, keep_graph):
        for name in ("judge", "maker"):
            others = players
            loss = lambda own, n=name, o=others: losses({**o, n: own})[n]  # noqa: E731
            players = {**players, name: sgd_step(loss, players[name], 0.1, keep_graph)}
        return players

    def begin(values):
        return {
            "maker": {"w": values["maker"].clone().requires_grad_()},
            "judge": {"v": values["judge"].clone().requires_grad_()},
        }

    def after(values, name):
        players = begin(values)
        for number in range(3):
            players = game_step(players, number, False)
        return float(losses(players)[name].detach())

    gradients, _ = maml_gradient(game_step, losses, begin(flat), 3)
    for name, key in (("maker", "w"), ("judge", "v")):
        direction = torch.randn(flat[name].shape, generator=draws, dtype=torch.float64)
        up, down = ({**flat, name: flat[name] + sign * 1e-5 * direction} for sign in (1, -1))
        slope = (after(up, name) - after(down, name)) / 2e-5
        assert float((gradients[name][key] * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_decay_ends_where_it_should():
    assert [linear_decay(step, 5, 0.2) for step in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert linear_decay(0, 1, 0.5) == 1
