"""Local attribute transfer as inpainting: a region is taken out and made anew with other attributes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from functional.critic_augmentation import augment_alike
from functional.inpainting_losses import composite, hidden, masked_l1, spatial_discount
from lightning_modules.attribute_classifier import AttributeClassifier
from lightning_modules.attribute_editing import target_attributes
from lightning_modules.gan import GAN, Batch, Terms
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.inpainting_quality import InpaintingQuality
from lightning_modules.networks.inpainting import ContextualInpainter, SmallInpainter, WholeImageTranslator
from lightning_modules.networks.inpainting_critic import InpaintingCritic, Verdict

__all__ = ["AttributeInpaintingGAN"]

Network = Literal["small", "contextual", "whole"]


class AttributeInpaintingGAN(GAN):
    """GAN that changes attributes of a face by making one region of it anew (after ATI-GAN, Durall et al. 2020).

    The paper's sections on networks and settings were not at hand: the idea is theirs, the defaults are ours. What
    lies outside of the mask comes out bit by bit as it went in. Batches need ``image``, ``mask`` ``(B, 1, H, W)``,
    ``box`` ``(B, 4)`` and ``attributes`` ``(B, A)`` with 0 or 1.

    Args:
        attributes: names of what is edited, in the order of the batch's columns.
        network: ``small``, one stage; ``contextual``, coarse to fine with contextual attention; ``whole``, the baseline
            that makes the whole image anew and is held by a cycle instead of a mask.
        width: channels of the generator at full size.
        critic_width: channels after the critic's first convolution.
        critic_depth: convolutions of the critic that sees the whole image.
        local_size: side that the critic resizes the region's box to.
        attribute_weight: of the attribute head's loss, for both players; 0 is the baseline without a head.
        reconstruction_weight: of the difference, inside the mask, to the image when its own attributes are asked for.
        discount: weight of a pixel for each step into the mask in that difference.
        perceptual: trained classifier in whose features restored images are to resemble real ones; none by default.
        perceptual_weight: weight of that.
        critic_augmentation: the critic sees images shifted and brightened at random, by this share of size and range.
        edit: attributes that ``predict`` sets, e.g. ``{Mustache: false}``; it leaves the others as they are.
        judge: trained AttributeClassifier that scores edits in validation and test.
        judge_name: how its distances are called.
        embedder: trained classifier of identities, for the similarity of faces; none by default.
        image_size: side of the images; the command line fills it in from the data.
        compile: compile both networks with ``torch.compile``.
        kwargs: as for the other GANs: ``gan_loss``, ``gradient_penalty_weight`` (within the mask), ``r1_weight``,
            ``minibatch``, ``critic_steps_per_generator``, ``accumulate``, ``max_generator_steps``, ``clip_norm``,
            ``ema_decay``, ``generator_optimizer``, ``critic_optimizer``, ``gan_lr_scheduler``, ``noise_seed``.

    Raises:
        ValueError: if something does not fit, with the key and the mend.
    """

    generator: SmallInpainter | ContextualInpainter | WholeImageTranslator
    critic: InpaintingCritic
    shown_figures = ("transfer_accuracy",)
    not_hyperparameters = (*GAN.not_hyperparameters, "judge", "embedder", "perceptual")

    def __init__(
        self,
        attributes: list[str],
        network: Network = "small",
        width: int = 24,
        critic_width: int = 24,
        critic_depth: int = 3,
        local_size: int = 32,
        attribute_weight: float = 1.0,
        reconstruction_weight: float = 10.0,
        discount: float = 0.9,
        perceptual: ImageClassifier | None = None,
        perceptual_weight: float = 1.0,
        critic_augmentation: float = 0.0,
        edit: dict[str, bool] | None = None,
        judge: AttributeClassifier | None = None,
        judge_name: str = "judge",
        embedder: ImageClassifier | None = None,
        image_size: int | None = None,
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(logger=False, ignore=list(self.not_hyperparameters))
        if network not in get_args(Network):
            raise ValueError(f"model.network={network!r} is not one of {', '.join(get_args(Network))}.")
        if not attributes:
            raise ValueError("model.attributes is empty: name what is to be edited.")
        if min(attribute_weight, reconstruction_weight, perceptual_weight, critic_augmentation) < 0:
            raise ValueError(
                f"model.attribute_weight={attribute_weight}, reconstruction_weight={reconstruction_weight}, "
                f"perceptual_weight={perceptual_weight}, critic_augmentation={critic_augmentation}: none below 0."
            )
        self.attributes, self.edit = list(attributes), dict(edit or {})
        target_attributes(torch.zeros(1, len(attributes)), self.attributes, self.edit)  # refuses unknown names
        self.attribute_weight, self.reconstruction_weight = attribute_weight, reconstruction_weight
        self.discount, self.perceptual_weight = discount, perceptual_weight
        self.critic_augmentation, self.inpaints = critic_augmentation, network != "whole"
        kinds = {"small": SmallInpainter, "contextual": ContextualInpainter, "whole": WholeImageTranslator}
        self.generator = kinds[network](len(attributes), width)
        self.critic = InpaintingCritic(len(attributes), critic_width, critic_depth, local_size)
        self.finish_networks(compile)
        self._perceptual = [] if perceptual is None else [perceptual.requires_grad_(False).eval()]  # in no checkpoint
        self.quality = InpaintingQuality(self.attributes, judge, judge_name, embedder)
        self.monitor: tuple[str | None, str] = ("val/transfer_accuracy" if judge is not None else None, "max")

    def forward(self, x: Tensor, mask: Tensor, attributes: Tensor) -> Tensor:
        """Edited images in [0, 1], ``(B, 3, H, W)``, by the averaged generator.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``, any H and W.
            mask: 1 where the image is made anew, shape ``(B, 1, H, W)``.
            attributes: wanted, 0 or 1, shape ``(B, A)``.
        """
        return self._finished(x, mask, self.sampler(x, mask, attributes)[0])

    @torch.no_grad()
    def attributes_seen(self, x: Tensor, mask: Tensor, boxes: Tensor) -> Tensor:
        """Attributes ``(B, A)``, 0 or 1, that the critic's head sees in images; arguments as of the critic."""
        return (self.critic(x, mask, boxes).attributes > 0).float()

    def critic_terms(self, batch: Batch) -> Terms:
        """Adversarial loss of both critics, the head's loss on real images, and penalties."""
        x, mask, boxes, own = self._parts(batch)
        wanted = self._wanted(own)
        with torch.no_grad():
            fake = self._finished(x, mask, self.generator(x, mask, wanted)[0])
        real_verdict, fake_verdict = self._judge(x, mask, boxes), self._judge(fake, mask, boxes)
        whole = self.critic_score_terms(real_verdict.whole, fake_verdict.whole)
        local = self.critic_score_terms(real_verdict.local, fake_verdict.local)
        terms = {**whole, **{f"local_{name}": value for name, value in local.items()}}
        if self.attribute_weight:
            terms["attributes"] = self.attribute_weight * _cross_entropy(real_verdict.attributes, own)

        def score(images: Tensor) -> Tensor:
            verdict = self.critic(images, mask.float(), boxes)
            return verdict.whole.mean((1, 2, 3)) + verdict.local.mean((1, 2, 3))

        return terms | self.penalty_terms(score, x, fake, mask)

    def generator_terms(self, batch: Batch) -> Terms:
        """Adversarial and attribute loss of images with other attributes, and the reconstruction with their own."""
        x, mask, boxes, own = self._parts(batch)
        wanted = self._wanted(own)
        if self.inpaints:
            stages = self.generator(torch.cat([x, x]), torch.cat([mask, mask]), torch.cat([own, wanted]))
            restored, raw = [stage[: len(x)] for stage in stages], stages[0][len(x) :]
            edited = self._finished(x, mask, raw)
            weight = spatial_discount(mask, self.discount)
            difference = torch.stack([masked_l1(stage, x, mask, weight) for stage in restored]).sum(0)
        else:
            edited = self.generator(x, mask, wanted)[0]
            restored = [self.generator(edited, mask, own)[0]]  # the cycle
            difference = (restored[0] - x).abs().mean((1, 2, 3))
        verdict = self._judge(edited, mask, boxes)
        terms = {
            **self.generator_score_terms(verdict.whole),
            **{f"local_{name}": value for name, value in self.generator_score_terms(verdict.local).items()},
            "reconstruction": self.reconstruction_weight * difference.mean(),
        }
        if self.attribute_weight:
            terms["attributes"] = self.attribute_weight * _cross_entropy(verdict.attributes, wanted)
        for network in self._perceptual:
            network.to(self.device)
            complete = self._finished(x, mask, restored[0])
            terms["perceptual"] = self.perceptual_weight * F.l1_loss(network.embed(complete), network.embed(x))
        return terms

    def judge_batch(self, batch: Batch, batch_idx: int) -> None:
        """Restore each image, and change each of its attributes in turn."""
        own = batch["attributes"]
        restored = self(batch["image"], batch["mask"], own)
        self.quality.update(batch, restored, self.each_changed(batch))

    def each_changed(self, batch: Batch) -> Tensor:
        """Edits with each of the attributes changed in turn, ``(B, A, 3, H, W)``."""
        own = batch["attributes"].float()
        changed = (own[:, None] - torch.eye(own.shape[1], device=own.device)).abs()  # (B, A, A)
        made = [self(batch["image"], batch["mask"], wanted) for wanted in changed.unbind(1)]
        return torch.stack(made, dim=1)

    @property
    def sheet_headings(self) -> list[str]:
        """Of the columns of :meth:`sample_sheet`."""
        return ["image", "taken out", "restored", *(f"other {name}" for name in self.attributes), "all other"]

    def sample_sheet(self, batch: Batch, columns: int, seed: int = 0) -> Tensor:
        """Before, mask, restored, and edits: each attribute changed in turn, then all of them.

        Args:
            batch: R images with masks and attributes.
            columns: pictures beside each image, of those above.
            seed: not used; edits are not random.

        Returns:
            Shape ``(R, 1 + up to columns, 3, H, W)``, in [0, 1].
        """
        own = self._own(batch)
        batch = {**batch, "attributes": own}
        x, mask = batch["image"].float(), batch["mask"]
        every = self(x, mask, 1 - own)
        pictures = [x, hidden(x, mask), self(x, mask, own), *self.each_changed(batch).unbind(1), every]
        return torch.stack([picture.float() for picture in pictures[: 1 + columns]], dim=1)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, edited images ``(B, 3, H, W)``, and the attributes before and after, ``(B, A)``.

        Attributes that the batch does not know are those that the critic's head sees.

        Raises:
            ValueError: if there is nothing to do.
        """
        if not self.edit:
            raise ValueError(
                f"model.edit is empty: say what to change, e.g. --model.edit '{{{self.attributes[0]}: false}}'."
            )
        x, mask = batch["image"], batch["mask"]
        own = self._own(batch)
        wanted = target_attributes(own, self.attributes, self.edit)
        return {"path": batch["path"], "edited": self(x, mask, wanted), "before": own, "after": wanted}

    def _own(self, batch: Batch) -> Tensor:
        """Attributes of the images, ``(B, A)``: those of the batch, or those that the critic's head sees."""
        if "attributes" in batch:
            return batch["attributes"].float()
        return self.attributes_seen(batch["image"], batch["mask"], batch["box"])

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return batch["image"], batch["mask"], batch["box"], batch["attributes"].float()

    def _wanted(self, own: Tensor) -> Tensor:
        """Each attribute changed with probability one half."""
        return (own - (self.uniform(*own.shape) < 0.5).float()).abs()

    def _finished(self, x: Tensor, mask: Tensor, made: Tensor) -> Tensor:
        return composite(x, made, mask) if self.inpaints else made.to(x.dtype)

    def _judge(self, images: Tensor, mask: Tensor, boxes: Tensor) -> Verdict:
        if self.critic_augmentation:
            draws = self.uniform(len(images), 3)
            images, mask = augment_alike(images, mask, draws, self.critic_augmentation)
        verdict: Verdict = self.critic(images, mask, boxes)
        return verdict


def _cross_entropy(logits: Tensor, attributes: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), attributes)
