"""One task of few-shot translation: shots, sources, and what both players minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from functional.gan_losses import GANLoss, critic_loss, generator_loss, gradient_penalty

__all__ = ["Minibatch", "Network", "Terms", "TranslationLosses", "TranslationTask", "one_hot"]

Terms = dict[str, Tensor]
Network = Callable[..., Any]


class Minibatch(NamedTuple):
    """What one inner step sees.

    Attributes:
        shots: images of the target class, ``(B, 3, H, W)`` in [0, 1].
        sources: images of other classes, same shape.
        slots: source slot of each of these, -1 where it is unknown, ``(B,)``.
        share: of the real image at the points of the gradient penalty, ``(B,)``.
    """

    shots: Tensor
    sources: Tensor
    slots: Tensor
    share: Tensor


@dataclass(frozen=True)
class TranslationTask:
    """Shots of a class and images to translate; minibatches are a function of the seed and the step.

    Args:
        shots: ``(K, 3, H, W)`` in [0, 1].
        sources: ``(M, 3, H, W)``.
        slots: source slots, -1 where unknown, ``(M,)``.
        seed: of everything that is drawn, with the step.
        flip: probability of a mirrored image.
    """

    shots: Tensor
    sources: Tensor
    slots: Tensor
    seed: tuple[int, ...]
    flip: float = 0.5

    def minibatch(self, step: int, size: int) -> Minibatch:
        """Draw ``size`` shots and as many sources, with replacement."""
        number = int(np.random.SeedSequence((*self.seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        draws = torch.Generator().manual_seed(number)
        device = self.shots.device
        chosen, others = (
            torch.randint(len(images), (size,), generator=draws).to(device) for images in (self.shots, self.sources)
        )
        mirrored = (torch.rand(2, size, 1, 1, 1, generator=draws) < self.flip).to(device)
        shots, sources = self.shots[chosen], self.sources[others]
        return Minibatch(
            torch.where(mirrored[0], shots.flip(-1), shots),
            torch.where(mirrored[1], sources.flip(-1), sources),
            self.slots[others],
            torch.rand(size, generator=draws).to(device),
        )


def one_hot(slots: Tensor, count: int) -> Tensor:
    """Label vectors ``(B, count)`` of slots ``(B,)``; zeros where a slot is -1."""
    return F.one_hot(slots.clamp_min(0), count).float() * (slots >= 0).float()[:, None]


@dataclass(frozen=True)
class TranslationLosses:
    """What the players minimise: named scalars, already weighted, that are added up.

    The last slot of a label vector is the target's: what it stands for is what a task teaches.

    Args:
        slots: length of the label vectors.
        gan_loss: as for the other GANs.
        gradient_penalty_weight: between shots and translated images.
        class_weight: of the critic's class head, for both players.
        identity_weight: a shot, translated to the target, stays as it is.
        content_weight: of the difference between an image and its translation.
        reconstruction_weight: of a translation, translated back to its source slot.
    """

    slots: int
    gan_loss: GANLoss = "non-saturating"
    gradient_penalty_weight: float = 0.0
    class_weight: float = 1.0
    identity_weight: float = 2.0
    content_weight: float = 1.5
    reconstruction_weight: float = 0.0

    def target(self, images: Tensor) -> Tensor:
        """Label vectors that ask for the target, ``(B, slots)``."""
        last = torch.full((len(images),), self.slots - 1, device=images.device)
        return one_hot(last, self.slots)

    def total(
        self, player: str, generator: Network, critic: Network, batch: Minibatch, through: bool = False
    ) -> Tensor:
        """Loss of ``generator`` or ``critic``; for ``through`` see :meth:`critic_terms`."""
        if player == "critic":
            terms = self.critic_terms(generator, critic, batch, through)
        else:
            terms = self.generator_terms(generator, critic, batch)
        return torch.stack(list(terms.values())).sum()

    def critic_terms(self, generator: Network, critic: Network, batch: Minibatch, through: bool = False) -> Terms:
        """Shots are real and of the target, translations are fake, and sources are of their own slots.

        Args:
            generator: makes the translations.
            critic: judges.
            batch: shots and sources.
            through: keep the way back to the generator, which MAML needs; never through the gradient penalty.
        """
        with torch.set_grad_enabled(through):
            fake = generator(batch.sources, self.target(batch.sources))
        count = len(batch.shots)
        scores, logits = critic(torch.cat([batch.shots, fake.to(batch.shots.dtype), batch.sources]))
        real_score, fake_score = scores[:count], scores[count : 2 * count]
        terms = {"adversarial": critic_loss(real_score.float(), fake_score.float(), self.gan_loss)}
        if self.class_weight:
            own, others = logits[:count].float(), logits[2 * count :].float()
            told = F.softplus(-own[:, -1]).mean() + F.softplus(others[:, -1]).mean()
            terms["class"] = self.class_weight * (told + _slot_loss(others[:, :-1], batch.slots))
        if self.gradient_penalty_weight:
            penalty = gradient_penalty(lambda x: critic(x)[0].flatten(1).mean(1), batch.shots, fake, batch.share)
            terms["gradient_penalty"] = self.gradient_penalty_weight * penalty.mean()
        return terms

    def generator_terms(self, generator: Network, critic: Network, batch: Minibatch) -> Terms:
        """Translations look like shots and like their sources; shots stay."""
        x, shots, count = batch.sources, batch.shots, len(batch.sources)
        made, kept = generator(torch.cat([x, shots]), self.target(torch.cat([x, shots]))).split([count, len(shots)])
        scores, logits = critic(made)
        terms = {"adversarial": generator_loss(scores.float(), self.gan_loss)}
        if self.class_weight:
            terms["class"] = self.class_weight * F.softplus(-logits[:, -1].float()).mean()
        if self.identity_weight:
            terms["identity"] = self.identity_weight * (kept - shots).abs().mean()
        if self.content_weight:
            terms["content"] = self.content_weight * (made - x).abs().mean()
        if self.reconstruction_weight:
            known = (batch.slots >= 0).float()
            back = (generator(made, one_hot(batch.slots, self.slots)) - x).abs().mean((1, 2, 3))
            terms["reconstruction"] = self.reconstruction_weight * (back * known).sum() / known.sum().clamp_min(1)
        return terms


def _slot_loss(logits: Tensor, slots: Tensor) -> Tensor:
    """Cross entropy of the source slots, of images whose slot is known; 0 if there are none."""
    known = slots >= 0
    if logits.shape[1] < 2:
        return logits.new_zeros(())
    loss = F.cross_entropy(logits, slots.clamp_min(0), reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)
