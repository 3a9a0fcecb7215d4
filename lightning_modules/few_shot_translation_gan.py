"""Semi few-shot attribute translation: a GAN that is trained to learn a new target class from a few images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from functional.gan_losses import GANLoss
from functional.meta_learning import linear_decay
from lightning_modules.attribute_classifier import AttributeClassifier
from lightning_modules.few_shot_checks import Meta, check_data, check_precision, check_settings, check_shots
from lightning_modules.few_shot_evaluation import FewShotFigures, TranslationJudge
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.inner_loop import InnerLoop, Networks, copies_of, refuse_nan, weights_of
from lightning_modules.networks.stargan import TranslationCritic
from lightning_modules.translation_task import TranslationLosses, TranslationTask
from lightning_modules.translator import Translator, create_generator

__all__ = ["FewShotTranslationGAN", "OuterSGD"]

Batch = dict[str, Any]


class OuterSGD(torch.optim.SGD):
    """Plain descent along the meta-gradient; with Reptile, ``lr`` is the share of the way to the adapted weights.

    Args:
        params: what to optimise.
        lr: step size.
        momentum: of the steps.
    """

    def __init__(self, params: Any, lr: float = 0.6, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum)


class FewShotTranslationGAN(LightningModule):
    """Meta-trained image translation (after Semi Few-Shot Attribute Translation, Durall et al. 2019).

    Generator and critic are those of StarGAN in kind: label vectors with a slot for each source class and one more for
    the target, whose meaning is what a task teaches by a few images. Meta-training makes weights from which that takes
    few steps. The paper's sections on networks and settings were not at hand: the idea is theirs, the defaults are
    ours. Batches are episodes, see the few-shot datamodules.

    Args:
        source_slots: classes of sources.
        meta: ``reptile``; ``fomaml`` or ``maml``, whose inner steps are plain descent; ``joint``, the baseline that
            trains on all tasks of a batch at once, with as many updates, and learns nothing about adaptation.
        network: ``additive``, whose generator says what to add to the image, or ``stargan``, the paper's.
        width: channels of the generator at full size.
        blocks: residual blocks of the generator.
        depth: halvings of the additive generator.
        critic_width: channels after the critic's first convolution.
        critic_depth: convolutions of the critic, each of which halves the size.
        gan_loss: ``hinge``, ``non-saturating`` or ``wasserstein``.
        gradient_penalty_weight: between shots and translated images; 10 in StarGAN.
        class_weight: of the critic's class head, for both players.
        identity_weight: a shot, translated to the target, stays as it is.
        content_weight: of the difference between an image and its translation.
        reconstruction_weight: of a translation, translated back to its source slot; 10 in StarGAN.
        inner_steps: steps of each player in a training task.
        inner_lr: their step size.
        inner_optimizer: ``adam``, with betas 0.5 and 0.9, or ``sgd``; begun anew for each task.
        inner_batch: shots and sources of a step.
        inner_lr_halved_after: step t of a task, in training and in adaptation, has size ``lr / (1 + t / this)``: the
            players come to rest instead of circling; null for the same size throughout.
        outer_optimizer: optimiser class that follows the meta-gradient.
        outer_decay: its step size falls linearly to this share at the end of ``max_outer_steps``.
        max_outer_steps: training ends after so many; otherwise after the trainer's epochs.
        adaptation_steps: validation and test look at translations after these numbers of steps.
        adaptation_lr: step size of adaptation after training; ``inner_lr`` by default.
        predict_steps: of adaptation in ``predict``; the last of ``adaptation_steps`` by default.
        judge: trained classifier of the classes, that scores translations in validation and test.
        judge_name: how its distances are called.
        image_size: side of the images; the command line fills it in from the data.
        noise_seed: of everything that is drawn.

    Raises:
        ValueError: if something does not fit, with the key and the mend.
    """

    def __init__(
        self,
        source_slots: int = 8,
        meta: Meta = "reptile",
        network: Literal["additive", "stargan"] = "additive",
        width: int = 24,
        blocks: int = 2,
        depth: int = 1,
        critic_width: int = 24,
        critic_depth: int = 3,
        gan_loss: GANLoss = "non-saturating",
        gradient_penalty_weight: float = 0.0,
        class_weight: float = 1.0,
        identity_weight: float = 2.0,
        content_weight: float = 1.5,
        reconstruction_weight: float = 0.0,
        inner_steps: int = 24,
        inner_lr: float = 2e-3,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
        inner_batch: int = 16,
        inner_lr_halved_after: float | None = 20.0,
        outer_optimizer: OptimizerCallable = OuterSGD,
        outer_decay: float = 0.05,
        max_outer_steps: int | None = None,
        adaptation_steps: list[int] | None = None,
        adaptation_lr: float | None = None,
        predict_steps: int | None = None,
        judge: ImageClassifier | AttributeClassifier | None = None,
        judge_name: str = "judge",
        image_size: int = 16,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters(logger=False, ignore=["outer_optimizer", "judge"])
        self.adaptation_steps = sorted(set([0, 5, 10, 25, 50] if adaptation_steps is None else adaptation_steps))
        check_settings(self.hparams, self.adaptation_steps)
        weights = (gradient_penalty_weight, class_weight, identity_weight, content_weight, reconstruction_weight)
        if min(weights) < 0:
            raise ValueError(f"model: of the weights {weights}, gradient penalty to reconstruction, none below 0.")
        self.meta: Meta = meta
        self.losses = TranslationLosses(source_slots + 1, gan_loss, *weights)
        self.settings: dict[str, Any] = {
            "network": network,
            "slots": source_slots + 1,
            "width": width,
            "blocks": blocks,
            "depth": depth,
        }
        self.generator = create_generator(**self.settings)
        self.critic = TranslationCritic(source_slots + 1, image_size, critic_width, critic_depth)
        self.inner_loop = InnerLoop(
            self.losses, inner_steps, inner_lr, inner_optimizer, inner_batch, inner_lr_halved_after
        )
        self.outer_factory, self.outer_steps, self.noise_seed = outer_optimizer, 0, noise_seed
        self.figures = FewShotFigures(None if judge is None else TranslationJudge(judge, judge_name))
        self._translator: list[Translator] = []  # in no checkpoint

    @property
    def monitor(self) -> tuple[str, str]:
        """What the best checkpoint is chosen by after half of the adaptation: the judge, or the colour of the hair."""
        steps = self.adaptation_steps[len(self.adaptation_steps) // 2]
        if self.figures.judge is None:
            return f"val/hair_colour_error/{steps}", "min"
        return f"val/judge_accuracy/{steps}", "max"

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [0, 1] translated to whatever the target slot stands for before adaptation."""
        made: Tensor = self.generator(x, self.losses.target(x))
        return made.clamp(0, 1)

    def adapt(self, shots: Tensor, steps: int, sources: Tensor, seed: int = 0) -> Translator:
        """Learn a target class; the module's own weights stay as they are.

        Args:
            shots: images of the class, ``(K, 3, H, W)`` in [0, 1].
            steps: of adaptation.
            sources: images of other classes, ``(M, 3, H, W)``, for instance those to be translated.
            seed: of the order of images.

        Returns:
            The frozen translator.

        Raises:
            ValueError: if there are no shots or sources, their values lie outside of [0, 1], or steps are below 0.
        """
        check_shots(shots, sources, steps)
        unknown = torch.full((len(sources),), -1, device=sources.device)
        return self.adapt_to(TranslationTask(shots, sources, unknown, (self.noise_seed, seed)), [steps])[steps]

    def adapt_to(self, task: TranslationTask, steps: list[int]) -> dict[int, Translator]:
        """Translators after some numbers of steps on a task."""
        found: dict[int, Translator] = {}
        with torch.inference_mode(False), torch.enable_grad():  # evaluation runs without gradients
            networks = copies_of(self.networks)
            clean = TranslationTask(task.shots.clone(), task.sources.clone(), task.slots.clone(), task.seed, task.flip)

            def watch(step: int) -> None:
                if step in steps:
                    found[step] = Translator(networks["generator"], self.settings)

            self.inner_loop.learn(networks, clean, max(steps), self.hparams["adaptation_lr"], watch)
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """An outer step: adapt to each task of the batch, and move the weights by what that says."""
        if self.finished:  # a finished run was resumed
            self.trainer.should_stop = True
            return
        tasks = self.tasks(batch)
        gradients, losses = self.meta_gradient(tasks)
        refuse_nan(losses)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        if self.trainer.world_size > 1:
            flat = self.trainer.strategy.reduce(flat, reduce_op="mean")
        self._outer_step(list(flat.split([gradient.numel() for gradient in gradients])))
        logged = {f"train/{player}_loss": loss for player, loss in losses.items()}
        logged["train/loss"] = losses["generator"]
        self.log_dict(logged, batch_size=len(tasks))
        self.log("outer_step", float(self.outer_steps), prog_bar=True, batch_size=len(tasks))
        if self.finished:
            self.trainer.should_stop = True
            self.trainer.check_val_every_n_epoch = 1  # the last weights are looked at, whatever epoch they fall in

    @property
    def networks(self) -> Networks:
        """Both players."""
        return {"generator": self.generator, "critic": self.critic}

    @property
    def finished(self) -> bool:
        """Whether all outer steps are taken."""
        most = self.hparams["max_outer_steps"]
        return most is not None and self.outer_steps >= most

    def tasks(self, batch: Batch) -> list[TranslationTask]:
        """The tasks of a batch; each has random numbers of its own, wherever it is worked on."""
        attached = self._trainer is not None
        world, rank = (self.trainer.world_size, self.global_rank) if attached else (1, 0)
        found = [
            TranslationTask(shots, sources, slots, (self.noise_seed, self.outer_steps, index * world + rank))
            for index, (shots, sources, slots) in enumerate(
                zip(batch["support_image"], batch["source_image"], batch["source_slot"], strict=True)
            )
        ]
        if self.meta != "joint":
            return found
        shots, sources, slots = (torch.cat([getattr(t, name) for t in found]) for name in ("shots", "sources", "slots"))
        return [TranslationTask(shots, sources, slots, found[0].seed)]

    def meta_gradient(self, tasks: list[TranslationTask]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Mean meta-gradient of tasks for all weights, the generator's first, and the last losses of both players."""
        if self.meta in ("reptile", "joint"):
            return self.inner_loop.reptile(self.networks, tasks)
        return self.inner_loop.maml(self.networks, tasks, first_order=self.meta == "fomaml")

    def objective(self, batch: Batch, player: Literal["generator", "critic"] = "generator") -> Tensor:
        """Loss of one player on the first minibatch of a batch's first task: what landscapes and Hessians look at.

        Args:
            batch: episodes.
            player: whose.
        """
        kept, self.outer_steps = self.outer_steps, 0
        minibatch = self.tasks(batch)[0].minibatch(0, self.hparams["inner_batch"])
        self.outer_steps = kept
        return self.losses.total(player, self.generator, self.critic, minibatch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adapt to each held-out task and judge the translations of held-out images."""
        for index in range(len(batch["support_image"])):
            one = {key: value[index] for key, value in batch.items()}
            seed = (self.noise_seed, batch_idx, index, self.global_rank)
            task = TranslationTask(one["support_image"], one["source_image"], one["source_slot"], seed)
            for steps, translator in self.adapt_to(task, self.adaptation_steps).items():
                self.figures.update(steps, self.figures.score(translator, one))

    def on_validation_epoch_end(self) -> None:
        """Log the mean figures, each by the number of steps."""
        self._log_figures("val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self._log_figures("test")

    def on_predict_start(self) -> None:
        """Forget the target of an earlier run."""
        self._translator.clear()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths and translated images, ``edited`` ``(B, 3, H, W)``; the target is learnt from the shots first.

        Raises:
            ValueError: if the batch brings no shots.
        """
        if "support_image" not in batch:
            raise ValueError("There are no shots of the wanted class: set data.shots_root to a folder of a few images.")
        if not self._translator:
            steps = self.hparams["predict_steps"] or self.adaptation_steps[-1]
            self._translator.append(self.adapt(batch["support_image"], steps, batch["source_image"]))
        return {"path": batch["path"], "edited": self._translator[0](batch["image"])}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The outer optimiser, of both networks; joint training moves all the way."""
        return (
            torch.optim.SGD(weights_of(self.networks), lr=1.0)
            if self.meta == "joint"
            else self.outer_factory(weights_of(self.networks))
        )

    def setup(self, stage: str) -> None:
        """Refuse what cannot work together.

        Raises:
            ValueError: for precisions that inner steps cannot have, and for slots or a judge that do not fit the data.
        """
        check_precision(str(self.trainer.precision))
        data = getattr(self.trainer, "datamodule", None)
        if stage != "predict" and data is not None:
            judge = self.figures.judge
            check_data(data, self.hparams["source_slots"], judge and judge.classifier)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of outer steps."""
        checkpoint["outer_steps"] = self.outer_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.outer_steps = checkpoint["outer_steps"]

    def _outer_step(self, gradients: list[Tensor]) -> None:
        optimizer: Any = self.optimizers()
        for weight, gradient in zip(weights_of(self.networks), gradients, strict=True):
            weight.grad = gradient.view_as(weight).to(weight.dtype)
        most = self.hparams["max_outer_steps"]
        factor = (
            linear_decay(self.outer_steps, most, self.hparams["outer_decay"]) if most and self.meta != "joint" else 1.0
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= factor
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad()
        self.outer_steps += 1

    def _log_figures(self, part: str) -> None:
        if self.trainer.sanity_checking:
            self.figures.rows = []
            return
        for name, value in self.figures.compute(self._gather_rows).items():
            self.log(f"{part}/{name}", value, sync_dist=True)

    def _gather_rows(self, rows: list[Any]) -> list[Any]:
        if self.trainer.world_size == 1:
            return rows
        everyone: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, rows)
        return [row for part in everyone for row in part]
