"""GAN that is conditioned on where an image lies in a latent space, instead of on its label."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_modules.fidelity_inception import FidelityInception
from lightning_modules.gan import GAN, Batch, Terms
from lightning_modules.generation_quality import Judge, JudgedSamples
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.latent_condition import ConditionMode, LatentCondition
from lightning_modules.networks.sngan import ProjectionCritic, ResidualGenerator

__all__ = ["LatentConditionedGAN"]

Stage = Literal["encoder", "statistics", "gan"]
Conditioning = Literal["features", "soft", "hard", "label", "none"]


class LatentConditionedGAN(GAN):
    """SNGAN with projection critic, conditioned on features of an encoder that needs no labels.

    One run has three stages: the encoder learns for ``encoder_epochs`` by its own objective; during the next epoch the
    statistics of its features are taken; from then on it is frozen and the GAN is trained. An image is generated for
    the condition of a real image of the same batch, which is the empirical law of conditions. Supervised (``label``)
    and unconditional (``none``) GANs are the same code with other conditions, and have no first two stages.

    Args:
        encoder: any module of ours with ``embed(x)``; without labels, e.g. :class:`ContrastiveEmbedding`, or with
            labels as an upper bound. It learns by its ``objective(batch)`` with its own optimiser.
        encoder_epochs: epochs that it learns; 0 for one that has its weights.
        condition: ``features``, ``soft`` or ``hard`` clusters of them, ``label`` or ``none``.
        clusters: number of k-means clusters of the features.
        condition_norm: length of every condition vector, whatever its kind.
        condition_temperature: of ``soft`` conditions.
        kept_conditions: conditions of training images that are kept for sampling.
        statistics_images: most training images, over all processes, that means and clusters are taken from.
        jitter: deviation of noise on the generator's conditions, as a share of their length.
        shuffled_conditions: give the critic conditions of other images: a control in which they mean nothing.
        feature_weight: weight of the squared distance between the features of a generated image and of the real image
            that its condition is of.
        latent_size: length of the noise.
        generator_width: channels of the generator's widest maps; those of the paper for the image size by default.
        critic_width: channels of the critic's widest maps; those of the paper by default.
        image_size: 32, 64 or 128; the command line fills it in from the data.
        num_classes: length of ``label`` conditions; the command line fills it in from the data.
        judge: trained network in whose features real and generated images are compared: an :class:`ImageClassifier` of
            the same classes, or :class:`FidelityInception`, which published distances use but which does not know the
            classes. Without one there are no distances.
        judge_name: how these distances are called: ``FID[judge_name,n]``.
        quality_images: training images that the floor of the distances is measured with.
        compile: compile both networks; checkpoints keep their keys.
        kwargs: as for :class:`GAN`.

    Raises:
        ValueError: if conditions need an encoder, labels or an image size that is not there.

    Source: Durall et al. 2020, Latent Space Conditioning on Generative Adversarial Networks (the idea); networks and
        schedule of SNGAN (Miyato et al. 2018), projection of Miyato and Koyama 2018.
    """

    shown_figures = ("distance", "conditional_accuracy")
    not_hyperparameters = (*GAN.not_hyperparameters, "encoder", "judge")

    def __init__(
        self,
        encoder: LightningModule | None = None,
        encoder_epochs: int = 0,
        condition: Conditioning = "features",
        clusters: int = 10,
        condition_norm: float = 8.0,
        condition_temperature: float = 0.1,
        kept_conditions: int = 1000,
        statistics_images: int = 50_000,
        jitter: float = 0.0,
        shuffled_conditions: bool = False,
        feature_weight: float = 0.0,
        latent_size: int = 128,
        generator_width: int | None = None,
        critic_width: int | None = None,
        image_size: int | None = None,
        num_classes: int | None = None,
        judge: ImageClassifier | FidelityInception | None = None,
        judge_name: str = "classifier",
        quality_images: int = 2000,
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(logger=False, ignore=list(self.not_hyperparameters))
        if condition not in get_args(Conditioning):
            raise ValueError(f"model.condition={condition!r} is not one of {', '.join(get_args(Conditioning))}.")
        if image_size is None:
            raise ValueError("model.image_size is missing; it is that of the data: data.image_size.")
        if min(encoder_epochs, jitter, feature_weight) < 0 or min(statistics_images, quality_images) < 2:
            raise ValueError(
                f"model.encoder_epochs={encoder_epochs}, jitter={jitter} and feature_weight={feature_weight} must not "
                f"be negative, statistics_images={statistics_images} and quality_images={quality_images} at least 2."
            )
        self.condition_kind: Conditioning = condition
        self.condition_norm, self.jitter, self.feature_weight = condition_norm, jitter, feature_weight
        self.encoder_epochs, self.statistics_images = encoder_epochs, statistics_images
        self.shuffled_conditions, self.num_classes = shuffled_conditions, num_classes
        self.encoder, self.condition = encoder, None
        size = 0
        if self.needs_encoder:
            self.condition = self._latent_condition(image_size, clusters, condition_temperature, kept_conditions)
            size = self.condition.size
        elif condition == "label":
            if num_classes is None:
                raise ValueError("model.condition=label needs model.num_classes, which the data did not give.")
            size = num_classes
        self.generator = ResidualGenerator(latent_size, size, image_size, generator_width)
        self.critic = ProjectionCritic(size, image_size, critic_width)
        self.finish_networks(compile)
        self.latent_size = latent_size
        self.quality: JudgedSamples | None = None if judge is None else JudgedSamples(Judge(judge, judge_name))
        self.monitor: tuple[str | None, str] = ("val/distance" if judge is not None else None, "min")
        self._bank: list[Tensor] = []
        self._recent: deque[Tensor] = deque(maxlen=quality_images)

    @property
    def needs_encoder(self) -> bool:
        """Whether conditions come from features."""
        return self.condition_kind in get_args(ConditionMode)

    @property
    def ready_to_sample(self) -> bool:
        """Whether there are conditions."""
        return self.condition is None or self.condition.fitted

    @property
    def stage(self) -> Stage:
        """What the current epoch is for."""
        if not self.needs_encoder or self.current_epoch > self.encoder_epochs:
            return "gan"
        return "encoder" if self.current_epoch < self.encoder_epochs else "statistics"

    def train(self, mode: bool = True) -> LatentConditionedGAN:
        """As for any module, but an encoder that has learnt stays in eval mode."""
        super().train(mode)
        if self.encoder is not None and (self._trainer is None or self.stage != "encoder"):
            self.encoder.eval()
        return self

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images in [0, 1], ``(B, 3, S, S)``, of the averaged generator.

        Args:
            noise: standard normal, shape ``(B, latent_size)``.
            condition: shape ``(B, C)``; None for an unconditional GAN.
        """
        images: Tensor = self.sampler(noise, condition)
        return images

    def embed(self, x: Tensor) -> Tensor:
        """Features of the critic ``(B, D)`` of images in [0, 1], ``(B, 3, S, S)``."""
        features: Tensor = self.critic.features(x)  # type: ignore[operator]
        return features

    @torch.no_grad()
    def conditions_like(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Conditions ``(B, C)`` of images in [0, 1], ``(B, 3, S, S)``; of their labels for ``label``.

        Raises:
            ValueError: if labels are needed and missing.
            RuntimeError: before statistics were taken.
        """
        if self.condition_kind == "none":
            return None
        if self.condition_kind == "label":
            if labels is None or self.num_classes is None:
                raise ValueError("This GAN is conditioned on labels: give labels.")
            return self.condition_norm * F.one_hot(labels, self.num_classes).float()
        assert self.condition is not None
        conditions: Tensor = self.condition(self._features(images))
        return conditions

    def conditions_of_cluster(
        self, cluster: int, count: int = 1, pick: Literal["centroid", "member"] = "centroid"
    ) -> Tensor:
        """Conditions ``(count, C)`` from a cluster of the latent space: its centre, or training images of it.

        Raises:
            ValueError: if conditions are not from an encoder, or there is no such cluster or way to pick.
        """
        if self.condition is None:
            raise ValueError(f"A GAN conditioned on {self.condition_kind} has no clusters.")
        return self.condition.of_cluster(cluster, count, pick)

    def conditions_between(self, first: Tensor, second: Tensor, steps: int = 8) -> Tensor:
        """Conditions on the way from one to another, ``(steps, C)``, both ``(C,)``, on the sphere that they lie on."""
        share = torch.linspace(0, 1, steps, device=first.device)[:, None]
        return self.condition_norm * F.normalize((1 - share) * first + share * second, dim=1)

    @torch.no_grad()
    def conditions_of_label(self, label: int, images: Tensor, labels: Tensor, count: int = 1) -> Tensor:
        """Conditions ``(count, C)`` for a label, from a few labelled images ``(N, 3, S, S)`` and labels ``(N,)``.

        The labelled images of that label are taken in turn.

        Raises:
            ValueError: if none has the label.
        """
        chosen = images[labels == label]
        if not len(chosen):
            raise ValueError(f"None of the {len(labels)} labelled images has label {label}.")
        found = self.conditions_like(chosen, labels[labels == label])
        if found is None:
            raise ValueError("An unconditional GAN does not listen to labels.")
        return found[torch.arange(count, device=found.device) % len(found)]

    @torch.no_grad()
    def sample(self, condition: Tensor | int, seed: int = 0) -> Tensor:
        """Images in [0, 1], ``(B, 3, S, S)``, for conditions ``(B, C)``, or so many of an unconditional GAN."""
        count = condition if isinstance(condition, int) else len(condition)
        noise = torch.randn(count, self.latent_size, generator=torch.Generator().manual_seed(seed))
        return self(noise.to(self.device), None if isinstance(condition, int) else condition)

    def standing_sample(self, draws: torch.Generator) -> None:
        """Samples under conditions of training images, or of labels."""
        count = self.minibatch or 64
        condition = None
        if self.condition is not None:
            members = self.condition.members
            chosen = torch.randint(len(members), (count,), generator=draws).to(members.device)
            condition = self.condition.from_unit(members[chosen].float())
        elif self.condition_kind == "label":
            assert self.num_classes is not None
            labels = torch.randint(self.num_classes, (count,), generator=draws).to(self.device)
            condition = self.condition_norm * F.one_hot(labels, self.num_classes).float()
        self.sampler(torch.randn(count, self.latent_size, generator=draws).to(self.device), condition)

    def sample_sheet(self, batch: Batch, columns: int, seed: int = 0) -> Tensor:
        """Each image of a batch followed by samples of its condition, with the same noise in each row.

        Args:
            batch: with ``image`` and ``label``.
            columns: samples per image.
            seed: of the noise.

        Returns:
            Images in [0, 1], shape ``(B, 1 + columns, 3, S, S)``.
        """
        images = batch["image"]
        condition = self.conditions_like(images, batch["label"])
        noise = torch.randn(columns, self.latent_size, generator=torch.Generator().manual_seed(seed)).to(images.device)
        rows = []
        for index in range(len(images)):
            of_row = None if condition is None else condition[index].expand(columns, -1)
            shifted = noise if condition is not None else noise.roll(index, 1)  # or all rows would be one
            rows.append(torch.cat([images[index : index + 1], self(shifted, of_row)]))
        return torch.stack(rows)

    def critic_terms(self, batch: Batch) -> Terms:
        """Scores of real images under their conditions, and of generated ones under theirs."""
        real, condition = batch["image"], self._conditions(batch)
        with torch.no_grad():
            fake, wanted = self._generate(len(real), condition)
        seen = condition
        if self.shuffled_conditions and condition is not None:
            seen = condition.roll(1, 0)
        terms = self.critic_score_terms(self.critic(real, seen), self.critic(fake, wanted))
        return terms | self.penalty_terms(lambda x: self.critic(x, seen), real, fake)

    def generator_terms(self, batch: Batch) -> Terms:
        """Scores of generated images, and how far their features are from those that they were asked to have."""
        condition = self._conditions(batch)
        fake, wanted = self._generate(len(batch["image"]), condition)
        terms = self.generator_score_terms(self.critic(fake, wanted))
        if self.feature_weight and self.encoder is not None:
            target = self._features(batch["image"])
            found: Tensor = self.encoder.embed(fake)  # type: ignore[operator]
            terms["features"] = self.feature_weight * (found.float() - target.float()).square().mean()
        return terms

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the encoder, features for the statistics, or steps of both players."""
        if self.stage == "encoder":
            self._encoder_step(batch)
        elif self.stage == "statistics":
            self._bank.append(self._features(batch["image"]).detach().float())
        else:
            self._recent.extend((batch["image"].detach() * 255).round().byte().cpu())
            self.play(batch)

    def on_train_epoch_start(self) -> None:
        """Freeze the encoder when it has learnt."""
        self._bank = []
        if self.encoder is not None:
            self.encoder.requires_grad_(self.stage == "encoder").train(self.stage == "encoder")

    def on_train_epoch_end(self) -> None:
        """Take the statistics at the end of their epoch; step the encoder's schedule in its own ones.

        Raises:
            RuntimeError: if the run was resumed within the epoch of the statistics.
        """
        if self.stage == "encoder" and self._encoder_scheduler is not None:
            self._encoder_scheduler.step()
        if self.stage != "statistics" or self.condition is None:
            return
        batches = self.trainer.num_training_batches
        if len(self._bank) != batches:
            raise RuntimeError(
                f"Only {len(self._bank)} of {batches} batches of features were seen: the run was resumed within the "
                "epoch of the statistics. Resume from a checkpoint of an earlier epoch."
            )
        share = -(-self.statistics_images // self.trainer.world_size)
        self.condition.fit(self.gather([torch.cat(self._bank)[:share]]), self.noise_seed)
        self._bank = []

    @torch.no_grad()
    def judge_batch(self, batch: Batch, batch_idx: int) -> None:
        """Generate two images for each of a batch, and let the judge look at them."""
        if self.quality is None or not self.ready_to_sample:
            return
        images, labels = batch["image"], batch["label"]
        condition = self.conditions_like(images, labels)
        asked: Tensor | int = len(images) if condition is None else condition
        place = batch_idx * self.trainer.world_size + self.global_rank
        fake, other = (self.sample(asked, 2 * place + index) for index in range(2))
        alike = None
        if self.condition is not None:
            wanted, found = (self.condition.unit(self._features(x)) for x in (images, fake))
            alike = F.cosine_similarity(found, wanted)
        self.quality.update(images, labels, fake, other, alike)

    def quality_figures(self) -> dict[str, float]:
        """Distances, and how often the judge sees in a generated image what its condition asked for."""
        assert self.quality is not None
        others = torch.stack(list(self._recent)) if self._recent else None
        figures: dict[str, float] = self.quality.compute(others, self.gather)
        return figures

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, and the clusters of the images if there are any; the callback SampleGrid writes samples like them."""
        found = {"path": batch["path"]}
        if self.condition is not None:
            found["cluster"] = self.condition.cluster(self.condition.unit(self._features(batch["image"])))
        return found

    def configure_optimizers(self) -> Any:
        """Optimisers of the players, and that of the encoder while it is to learn."""
        optimizers, schedulers = super().configure_optimizers()
        self._encoder_scheduler: Any = None
        if self.needs_encoder and self.encoder_epochs and self.encoder is not None:
            own: Any = self.encoder.configure_optimizers()
            if isinstance(own, dict):
                self._encoder_scheduler = own["lr_scheduler"]["scheduler"]
                own = own["optimizer"]
            optimizers.append(own)
            schedulers += [] if self._encoder_scheduler is None else [self._encoder_scheduler]
        return optimizers, schedulers

    def gan_schedulers(self) -> list[Any]:
        """Schedulers of the two players, without that of the encoder."""
        return [schedule for schedule in super().gan_schedulers() if schedule is not self._encoder_scheduler]

    def _encoder_step(self, batch: Batch) -> None:
        assert self.encoder is not None
        optimizers: Any = self.optimizers()
        optimizer = optimizers[2]
        with self.toggled_optimizer(optimizer):
            optimizer.zero_grad()
            loss = self.encoder.objective(batch)  # type: ignore[operator]
            self.manual_backward(loss)
            optimizer.step()
        self.log("train/encoder_loss", loss.detach(), prog_bar=True, batch_size=len(batch["image"]))

    def _latent_condition(self, image_size: int, clusters: int, temperature: float, kept: int) -> LatentCondition:
        if self.encoder is None or not callable(getattr(self.encoder, "embed", None)):
            raise ValueError(
                f"model.condition={self.condition_kind} needs a model.encoder with embed(x), e.g. ContrastiveEmbedding."
            )
        if self.encoder_epochs and not callable(getattr(self.encoder, "objective", None)):
            raise ValueError(
                f"model.encoder_epochs={self.encoder_epochs}: {type(self.encoder).__name__} has no objective(batch) to "
                "learn by; give it weights and set encoder_epochs to 0."
            )
        self.encoder.eval()
        with torch.no_grad():
            length = self.encoder.embed(torch.zeros(1, 3, image_size, image_size)).shape[1]  # type: ignore[operator]
        mode: Any = self.condition_kind
        return LatentCondition(mode, length, clusters, self.condition_norm, temperature, kept)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        assert self.encoder is not None
        features: Tensor = self.encoder.embed(images)  # type: ignore[operator]
        return features

    def _conditions(self, batch: Batch) -> Tensor | None:
        return self.conditions_like(batch["image"], batch["label"] if self.condition_kind == "label" else None)

    def _generate(self, count: int, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Images of the generator in training, and the conditions that they were made for."""
        if condition is not None and self.jitter:
            noise = self.normal(count, condition.shape[1]) * self.jitter * self.condition_norm
            condition = condition + noise / condition.shape[1] ** 0.5
        return self.generator(self.normal(count, self.latent_size), condition), condition
