"""The inner loop of meta-training: both players on one task, and what the weights before it learn from that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from functional.meta_learning import Parameters, Players, maml_gradient, reptile_gradient, sgd_step
from lightning_modules.translation_task import Minibatch, Network, Terms, TranslationLosses, TranslationTask

__all__ = ["InnerLoop", "Networks", "refuse_nan"]

Networks = dict[str, nn.Module]
Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True)
class InnerLoop:
    """How a task is learnt: each step a minibatch, on it the critic's update and then the generator's.

    Networks are a dictionary of ``generator`` and ``critic``.

    Args:
        losses: what the players minimise.
        steps: of a training task.
        lr: step size.
        optimizer: ``adam``, with betas 0.5 and 0.9, or ``sgd``; begun anew for each task.
        batch: shots and sources of a step.
        halved_after: step t, counted from 0, has size ``lr / (1 + t / halved_after)``, so that the players, who would
            circle around their equilibrium, come to rest; None for the same size throughout.
    """

    losses: TranslationLosses
    steps: int
    lr: float
    optimizer: Optimizer
    batch: int
    halved_after: float | None = None

    def learn(
        self,
        networks: Networks,
        task: TranslationTask,
        steps: int | None = None,
        lr: float | None = None,
        watch: Callable[[int], None] | None = None,
    ) -> Terms:
        """Train networks on a task, in place.

        Args:
            networks: copies to be changed.
            task: what to learn.
            steps: how many; those of a training task by default.
            lr: step size; the usual one by default.
            watch: called with 0 before the first step, and with the number of steps after each.

        Returns:
            Loss of both players in the last step.

        Raises:
            FloatingPointError: if it is not finite.
        """
        parameters = {name: list(networks[name].parameters()) for name in ("critic", "generator")}
        lr = self.lr if lr is None else lr
        optimizers = {name: self._optimizer(values, lr) for name, values in parameters.items()}
        last: Terms = {}
        if watch is not None:
            watch(0)
        for step in range(self.steps if steps is None else steps):
            minibatch = task.minibatch(step, self.batch)
            for name, values in parameters.items():
                with _fresh_casts(minibatch.shots.device.type):
                    loss = self.losses.total(name, networks["generator"], networks["critic"], minibatch)
                for value, slope in zip(values, torch.autograd.grad(loss, values, materialize_grads=True), strict=True):
                    value.grad = slope
                optimizers[name].param_groups[0]["lr"] = lr * self._share(step)
                optimizers[name].step()
                last[name] = loss.detach()
            if watch is not None:
                watch(step + 1)
        refuse_nan(last)
        return last

    def reptile(self, networks: Networks, tasks: list[TranslationTask]) -> tuple[list[Tensor], Terms]:
        """Start minus the mean of the adapted weights of all tasks, generator first; and the last losses."""
        adapted, losses = [], {}
        for task in tasks:
            copies = copies_of(networks)
            losses = self.learn(copies, task)
            adapted.append([value.detach() for value in weights_of(copies)])
        return reptile_gradient(weights_of(networks), adapted), losses

    def maml(self, networks: Networks, tasks: list[TranslationTask], first_order: bool) -> tuple[list[Tensor], Terms]:
        """Mean gradient of the loss on a further minibatch after the steps, in the weights before them."""
        found: list[list[Tensor]] = []
        losses: Terms = {}
        for task in tasks:
            gradients, last = self._maml_of(networks, task, first_order)
            found.append([gradients[name][key] for name in ("generator", "critic") for key in gradients[name]])
            losses = dict(last)
        return [torch.stack(parts).mean(0) for parts in zip(*found, strict=True)], losses

    def _maml_of(self, networks: Networks, task: TranslationTask, first_order: bool) -> Any:
        def step(players: Players, number: int, keep_graph: bool) -> Players:
            minibatch = task.minibatch(number, self.batch)
            for name in ("critic", "generator"):

                def loss(own: Parameters, name: str = name, players: Players = players) -> Tensor:
                    return self._total(name, networks, {**players, name: own}, minibatch, keep_graph)

                players = {**players, name: sgd_step(loss, players[name], self.lr * self._share(number), keep_graph)}
            return players

        def query(players: Players) -> Terms:
            minibatch = task.minibatch(self.steps, self.batch)
            return {name: self._total(name, networks, players, minibatch, not first_order) for name in networks}

        start = {
            player: {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
            for player, network in networks.items()
        }
        return maml_gradient(step, query, start, self.steps, first_order)

    def _total(self, name: str, networks: Networks, players: Players, minibatch: Minibatch, keep_graph: bool) -> Tensor:
        """Loss of a player where both have the given weights instead of their own."""

        def bound(player: str) -> Network:
            return lambda *inputs: torch.func.functional_call(networks[player], players[player], inputs)

        return self.losses.total(name, bound("generator"), bound("critic"), minibatch, keep_graph)

    def _share(self, step: int) -> float:
        """Size of a step relative to the first."""
        return 1.0 if self.halved_after is None else 1 / (1 + step / self.halved_after)

    def _optimizer(self, values: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(values, lr=lr)
        return torch.optim.Adam(values, lr=lr, betas=(0.5, 0.9))


def _fresh_casts(device: str) -> torch.autocast:
    """The autocast that is in force, if any, without its cache: that holds weights as they were before a step."""
    return torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
    )


def copies_of(networks: Networks) -> Networks:
    """The same networks with weights of their own."""
    return {name: copy.deepcopy(network) for name, network in networks.items()}


def weights_of(networks: Networks) -> list[nn.Parameter]:
    """All weights, the generator's first."""
    return [*networks["generator"].parameters(), *networks["critic"].parameters()]


def refuse_nan(losses: Terms) -> None:
    """Stop before weights are spoilt.

    Raises:
        FloatingPointError: if a loss is not finite.
    """
    for name, loss in losses.items():
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The {name}'s loss is {float(loss)} within a task; go on from the last checkpoint with a lower "
                "model.inner_lr, or a lower model.outer_optimizer.lr: for fomaml and maml about 0.01."
            )
