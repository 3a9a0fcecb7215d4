"""Untargeted attacks on classifiers, by foolbox: FGSM, BIM, PGD, DeepFool, Carlini and Wagner.

Images and results lie in [0, 1]; normalisation belongs to the model. FGSM, BIM and PGD move each pixel by at most
``epsilon``. DeepFool and Carlini-Wagner look for the smallest change in the L2 norm and have no ``epsilon``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports GitPython, which else insists on a git program

from foolbox.attacks.base import Attack as FoolboxAttack
from foolbox.attacks.basic_iterative_method import LinfBasicIterativeAttack
from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack
from foolbox.attacks.deepfool import L2DeepFoolAttack
from foolbox.attacks.fast_gradient_method import LinfFastGradientAttack
from foolbox.attacks.projected_gradient_descent import LinfProjectedGradientDescentAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel

__all__ = ["ATTACKS", "AdaptivePGD", "Attack", "AttackName"]

AttackName = Literal["fgsm", "bim", "pgd", "deepfool", "carlini_wagner"]
ATTACKS: tuple[AttackName, ...] = get_args(AttackName)

BOUNDED = ("fgsm", "bim", "pgd")
_PUBLISHED_STEPS = {"fgsm": 1, "bim": 10, "pgd": 40, "deepfool": 50, "carlini_wagner": 1000}


@dataclass(frozen=True)
class Attack:
    """One attack and its settings, all published by default.

    Args:
        name: ``fgsm`` (one step of size epsilon), ``bim`` (steps of epsilon / 5), ``pgd`` (steps of epsilon / 30 from
            a random start), ``deepfool`` (10 candidate classes, overshoot 0.02) or ``carlini_wagner`` (Adam, step 0.01,
            first constant 1e-3, no confidence).
        epsilon: largest change of a pixel; None for the two that look for the smallest change.
        steps: iterations; by default 1, 10, 40, 50 and 1000.
        binary_search_steps: constants that ``carlini_wagner`` tries.

    Raises:
        ValueError: if the name is unknown, or a number makes no sense for the attack.

    Source: Harder et al. 2021, Sec. IV; parameters of the authors' code.
    """

    name: AttackName
    epsilon: float | None = None
    steps: int | None = None
    binary_search_steps: int = 9

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise ValueError(f"attack {self.name!r} is not one of {', '.join(ATTACKS)}.")
        if self.name in BOUNDED:
            object.__setattr__(self, "epsilon", 0.03 if self.epsilon is None else self.epsilon)
            if not 0 < float(self.epsilon or 0) <= 1:
                raise ValueError(f"attack {self.name}: epsilon={self.epsilon} is no change of pixels in (0, 1].")
        elif self.epsilon is not None:
            raise ValueError(
                f"attack {self.name} looks for the smallest change and has no epsilon; leave out @{self.epsilon}."
            )
        object.__setattr__(self, "steps", self.steps or _PUBLISHED_STEPS[self.name])

    @classmethod
    def parse(cls, text: str, **settings: Any) -> Attack:
        """From ``fgsm`` or, with another epsilon, ``fgsm@0.01``."""
        name, _, epsilon = text.partition("@")
        return cls(name, float(epsilon) if epsilon else None, **settings)  # type: ignore[arg-type]

    @property
    def key(self) -> str:
        """Name for tables and folders, with epsilon where it is not the published one."""
        return self.name if self.epsilon in (None, 0.03) else f"{self.name}@{self.epsilon:g}"

    def settings(self) -> dict[str, Any]:
        """Everything that decides what the attack does, as plain values."""
        return asdict(self)

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Attack a batch.

        Carlini-Wagner of foolbox stops early by the loss of the whole batch, so its results depend on who is attacked
        together. Where no constant succeeds it leaves a black image, which is not counted as a success here.

        Args:
            model: from images in [0, 1] to logits; attacked in eval mode and left as it was found.
            images: in [0, 1], shape ``(B, C, H, W)``, on the model's device.
            labels: true classes, shape ``(B,)``.
            seed: of the random start.

        Returns:
            Attacked images in [0, 1], shape ``(B, C, H, W)``; and which of them, as float32, the model gives another
            class than the label, bool ``(B,)``.
        """
        return _run(self._foolbox(), model, images, labels, self.epsilon, seed)

    def _foolbox(self) -> FoolboxAttack:
        steps = int(self.steps or 1)
        if self.name == "fgsm":
            return LinfFastGradientAttack()
        if self.name == "bim":
            return LinfBasicIterativeAttack(rel_stepsize=0.2, steps=steps)
        if self.name == "pgd":
            return LinfProjectedGradientDescentAttack(rel_stepsize=0.01 / 0.3, steps=steps)
        if self.name == "deepfool":
            return L2DeepFoolAttack(steps=steps, candidates=10, overshoot=0.02, loss="logits")
        return L2CarliniWagnerAttack(
            binary_search_steps=self.binary_search_steps,
            steps=steps,
            stepsize=0.01,
            confidence=0,
            initial_const=1e-3,
            abort_early=True,
        )


class _PGDAgainstDetector(LinfProjectedGradientDescentAttack):
    """PGD that also lowers the score of a detector."""

    def __init__(self, detector_score: Callable[[Tensor], Tensor], weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.detector_score, self.weight = detector_score, weight

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        """Cross entropy of the victim less ``weight`` times the detector's score, summed over the batch."""
        victim_loss = super().get_loss_fn(model, labels)

        def loss(inputs: Any) -> Any:
            score = self.detector_score(inputs.raw).float().sum()
            return victim_loss(inputs) - type(inputs)(self.weight * score)

        return loss


@dataclass(frozen=True)
class AdaptivePGD:
    """PGD of an attacker who knows the detector: raises the victim's loss and lowers the detector's score at once.

    Args:
        epsilon: largest change of a pixel.
        steps: iterations.
        relative_step: size of a step in units of epsilon.
        weight: how much the score counts against the cross entropy.

    Source: not in the paper, whose attacker does not see the detector; the idea is that of Carlini and Wagner 2017,
        Adversarial Examples Are Not Easily Detected.
    """

    epsilon: float = 0.03
    steps: int = 100
    relative_step: float = 0.05
    weight: float = 1.0

    def perturb(
        self,
        model: nn.Module,
        detector_score: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Attack a batch, with arguments and results as for :meth:`Attack.perturb`.

        Args:
            model: the victim.
            detector_score: from images in [0, 1] to scores ``(B,)``, higher for "attacked", differentiable.
            images: in [0, 1], shape ``(B, C, H, W)``.
            labels: true classes, shape ``(B,)``.
            seed: of the random start.
        """
        attack = _PGDAgainstDetector(detector_score, self.weight, rel_stepsize=self.relative_step, steps=self.steps)
        return _run(attack, model, images, labels, self.epsilon, seed)


def _run(
    attack: Any, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None, seed: int
) -> tuple[Tensor, Tensor]:
    images = images.float()
    devices = [images.device] if images.device.type == "cuda" else []
    bounded = {} if epsilon is None else {"epsilon": epsilon}
    with frozen(model), torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        wrapped = PyTorchModel(model, bounds=(0, 1), device=images.device)
        attacked: Tensor = attack.run(wrapped, images.clone(), Misclassification(labels.clone()), **bounded).detach()
        with torch.no_grad():
            logits = model(attacked)
    gave_up = (attacked == 0).flatten(1).all(dim=1) & (images != 0).flatten(1).any(dim=1)
    finite = logits.isfinite().all(dim=1)
    return attacked, (logits.argmax(dim=1) != labels) & finite & ~gave_up


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients of parameters, for as long as it lasts; modes and flags are then put back."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
