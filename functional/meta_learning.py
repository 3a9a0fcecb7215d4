"""Meta-gradients: how weights from which a task is learnt in few steps are themselves learnt.

A task moves parameters ``phi`` to ``phi~`` in a few inner steps. Reptile descends along ``phi - phi~``; MAML along the
gradient of a query loss at ``phi~``, taken through the steps; first-order MAML along that gradient at ``phi~`` itself.
Tasks that are games have several players, each with parameters and a query loss of its own.

Source: Nichol et al. 2018, Algorithm 1 (Reptile); Finn et al. 2017, Algorithm 1 and Sec. 5.2 (MAML, first order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Parameters", "Players", "linear_decay", "maml_gradient", "reptile_gradient", "sgd_step"]

Parameters = dict[str, Tensor]
Players = dict[str, Parameters]


def reptile_gradient(start: Sequence[Tensor], adapted: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """What an optimiser is given in place of a gradient: start minus the mean of the adapted parameters.

    A step of plain descent of size 1 along it moves to that mean.

    Args:
        start: N parameters before adaptation.
        adapted: of each task, the N parameters after it.

    Returns:
        N tensors in the shapes of the parameters, without a graph.

    Raises:
        ValueError: if there is no task.
    """
    if not adapted:
        raise ValueError("reptile_gradient needs at least one adapted task.")
    with torch.no_grad():
        columns = zip(*adapted, strict=True)
        return [before - torch.stack(list(after)).mean(0) for before, after in zip(start, columns, strict=True)]


def sgd_step(
    loss: Callable[[Parameters], Tensor], parameters: Parameters, lr: float, keep_graph: bool = False
) -> Parameters:
    """Parameters after a step of plain gradient descent, as new tensors.

    The gradient is partial: what else the loss depends on counts as constant, also where that has come about from
    these parameters, as another player's answer to them.

    Args:
        loss: from the parameters to a scalar.
        parameters: named tensors that ask for gradients.
        lr: step size.
        keep_graph: let gradients flow through the step, as MAML needs; otherwise the new tensors are leaves.
    """
    own = {name: value.view_as(value) for name, value in parameters.items()}
    slopes = torch.autograd.grad(loss(own), list(own.values()), create_graph=keep_graph, materialize_grads=True)
    moved = {name: value - lr * slope for (name, value), slope in zip(own.items(), slopes, strict=True)}
    return moved if keep_graph else {name: value.detach().requires_grad_() for name, value in moved.items()}


def maml_gradient(
    step: Callable[[Players, int, bool], Players],
    query: Callable[[Players], Mapping[str, Tensor]],
    start: Players,
    steps: int,
    first_order: bool = False,
) -> tuple[Players, Mapping[str, Tensor]]:
    """Gradient of each player's query loss after adaptation, in the parameters before it.

    Args:
        step: an inner step, from players, its number and whether to keep the graph, to players.
        query: from adapted players to the loss of each.
        start: parameters of each player, leaves that ask for gradients; they are not changed.
        steps: inner steps.
        first_order: take the gradient at the adapted parameters, as if adaptation had been a shift.

    Returns:
        Gradients in the shape of ``start``, and the query losses. Of player p only the loss of p is differentiated:
        what helps one player in a game need not help the other.
    """
    players = start
    for number in range(steps):
        players = step(players, number, not first_order)
    losses = query(players)
    gradients: Players = {}
    for name, loss in losses.items():
        place = players[name] if first_order else start[name]
        slopes = torch.autograd.grad(loss, list(place.values()), retain_graph=True, materialize_grads=True)
        gradients[name] = dict(zip(place, (slope.detach() for slope in slopes), strict=True))
    return gradients, {name: loss.detach() for name, loss in losses.items()}


def linear_decay(step: int, steps: int, last: float) -> float:
    """Factor that falls linearly from 1 at the first of ``steps`` to ``last`` at the last one.

    Args:
        step: from 0.
        steps: how many.
        last: factor of step ``steps - 1`` and of all later ones.
    """
    return 1 + (last - 1) * min(1.0, step / max(1, steps - 1))
