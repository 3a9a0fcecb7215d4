"""Common ground of our GANs: two players, their steps, averages, checkpoints and guards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from functional.batch_norm import batch_norm_mode
from functional.gan_losses import GANLoss, check_gan_loss, critic_loss, generator_loss, gradient_penalty, r1_penalty
from lightning_modules.ema import ExponentialAverage

__all__ = ["GAN", "GANAdam", "Player"]

Batch = dict[str, Any]
Player = Literal["generator", "critic"]
Terms = dict[str, Tensor]


class GANAdam(torch.optim.Adam):
    """Adam with the settings of SNGAN: rate 2e-4 and betas 0 and 0.9.

    Args:
        params: what to optimise.
        lr: learning rate.
        betas: decay of the two moments.
        weight_decay: L2 penalty.
    """

    def __init__(
        self, params: Any, lr: float = 2e-4, betas: tuple[float, float] = (0.0, 0.9), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)


class GAN(LightningModule):
    """Generator and critic in turn, by manual optimisation.

    A batch of the loader is cut into minibatches; ``accumulate`` of them, or those that are left of the batch, make a
    step of the critic, and after every ``critic_steps_per_generator`` of these the generator takes one on the same
    images. Steps are counted here, because
    Lightning's ``global_step`` counts those of all optimisers. All random numbers are a function of the seed, the
    counters and the place of a sample in the joint batch of all processes: a resumed run repeats an uninterrupted one,
    and several processes draw what one would with a batch as large as all of theirs.

    Subclasses build ``self.generator`` and ``self.critic``, call :meth:`finish_networks`, and say what the players
    minimise in :meth:`critic_terms` and :meth:`generator_terms`. What they are judged by, they say in
    :meth:`judge_batch` and :meth:`quality_figures`.

    Args:
        gan_loss: ``hinge``, ``non-saturating`` or ``wasserstein``.
        gradient_penalty_weight: weight of the gradient penalty between real and generated images (10 in WGAN-GP).
        r1_weight: weight of the R1 penalty on real images.
        minibatch: images of a step; the whole batch of the loader by default.
        critic_steps_per_generator: critic steps for each generator step.
        accumulate: minibatches of a batch whose gradients make a step.
        max_generator_steps: training ends after so many; otherwise after the trainer's epochs.
        clip_norm: largest norm of a player's gradient; no limit by default.
        ema_decay: of the averaged generator that samples and evaluation use; 0 uses the generator as it is.
        standing_batches: evaluation normalises by the statistics of so many batches of samples, drawn anew each time
            (standing statistics), instead of by the running averages of training; 0 for the latter.
        generator_optimizer: optimiser class of the generator.
        critic_optimizer: optimiser class of the critic.
        gan_lr_scheduler: scheduler class for both, stepped once per generator step.
        noise_seed: of everything that is drawn.

    Raises:
        ValueError: if a number makes no sense.
    """

    generator: nn.Module
    critic: nn.Module
    average: ExponentialAverage
    quality: Any = None  # what keeps the judged batches: has reset() and compute(gather)
    shown_figures: tuple[str, ...] = ()  # of it, in the progress bar
    not_hyperparameters: tuple[str, ...] = ("generator_optimizer", "critic_optimizer", "gan_lr_scheduler")

    def __init__(
        self,
        gan_loss: GANLoss = "hinge",
        gradient_penalty_weight: float = 0.0,
        r1_weight: float = 0.0,
        minibatch: int | None = None,
        critic_steps_per_generator: int = 1,
        accumulate: int = 1,
        max_generator_steps: int | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.999,
        standing_batches: int = 0,
        generator_optimizer: OptimizerCallable = GANAdam,
        critic_optimizer: OptimizerCallable = GANAdam,
        gan_lr_scheduler: LRSchedulerCallable | None = None,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_gan_loss(gan_loss)
        if min(critic_steps_per_generator, accumulate, minibatch or 1, max_generator_steps or 1) < 1:
            raise ValueError(
                f"model.minibatch={minibatch}, critic_steps_per_generator={critic_steps_per_generator}, "
                f"accumulate={accumulate} and max_generator_steps={max_generator_steps} must be at least 1."
            )
        if min(gradient_penalty_weight, r1_weight, noise_seed, standing_batches) < 0 or (
            clip_norm is not None and clip_norm <= 0
        ):
            raise ValueError(
                f"model.gradient_penalty_weight={gradient_penalty_weight}, r1_weight={r1_weight}, "
                f"standing_batches={standing_batches} and noise_seed={noise_seed} must not be negative, "
                f"clip_norm={clip_norm} must be positive."
            )
        self.gan_loss: GANLoss = gan_loss
        self.gradient_penalty_weight, self.r1_weight = gradient_penalty_weight, r1_weight
        self.minibatch, self.accumulate = minibatch, accumulate
        self.critic_steps_per_generator = critic_steps_per_generator
        self.max_generator_steps, self.clip_norm = max_generator_steps, clip_norm
        self.ema_decay, self.noise_seed, self.standing_batches = ema_decay, noise_seed, standing_batches
        self.generator_factory, self.critic_factory = generator_optimizer, critic_optimizer
        self.gan_scheduler_factory = gan_lr_scheduler
        self.generator_steps = self.critic_steps = 0
        self._drawn = 0
        self._evaluation = ExitStack()

    def finish_networks(self, compile: bool = False) -> None:
        """Take the average of the generator, and compile both networks if asked for; call it when they are built.

        Weights of convolutions are laid out with the channels last, as the kernels of GPUs and CPUs want them.
        """
        for network in (self.generator, self.critic):
            network.to(memory_format=torch.channels_last)
        self.average = ExponentialAverage(self.generator, self.ema_decay)
        if compile:
            self.generator.compile()
            self.critic.compile()

    def critic_terms(self, batch: Batch) -> Terms:
        """What the critic minimises on a minibatch: named scalars, already weighted, that are added up."""
        raise TypeError(f"{type(self).__name__} must say what its critic minimises: define critic_terms(batch).")

    def generator_terms(self, batch: Batch) -> Terms:
        """What the generator minimises on a minibatch: named scalars, already weighted, that are added up."""
        raise TypeError(f"{type(self).__name__} must say what its generator minimises: define generator_terms(batch).")

    def objective(self, batch: Batch, player: Player = "generator") -> Tensor:
        """Loss of one player on a batch, with the same random numbers each time: what landscapes and Hessians look at.

        Args:
            batch: with what the two terms methods need.
            player: whose.
        """
        kept = self.generator_steps, self.critic_steps
        self.generator_steps = self.critic_steps = self._drawn = 0
        try:
            terms = self.critic_terms(batch) if player == "critic" else self.generator_terms(batch)
        finally:
            self.generator_steps, self.critic_steps = kept
        return torch.stack(list(terms.values())).sum()

    @property
    def sampler(self) -> nn.Module:
        """The generator that samples and evaluation use."""
        return self.average if self.ema_decay else self.generator

    def standing_sample(self, draws: torch.Generator) -> None:
        """Pass a batch of samples through the sampler, so that batch normalisation sees it.

        Args:
            draws: source of the batch's random numbers, on the CPU.
        """
        raise TypeError(f"{type(self).__name__} has no standing_sample(draws): set model.standing_batches to 0.")

    @contextmanager
    def standing_statistics(self) -> Iterator[None]:
        """Within the block the sampler normalises by the statistics of ``standing_batches`` batches of samples."""
        if not self.standing_batches:
            yield
            return
        draws = torch.Generator().manual_seed(self.noise_seed)  # all processes take the same ones
        with batch_norm_mode(self.sampler, "recompute") as prepare:
            with torch.no_grad():
                prepare(lambda: self._standing_samples(draws))
            yield

    def _standing_samples(self, draws: torch.Generator) -> None:
        for _ in range(self.standing_batches):
            self.standing_sample(draws)

    def judge_batch(self, batch: Batch, batch_idx: int) -> None:
        """Look at what the generator makes of a batch of validation or test; nothing by default."""

    def quality_figures(self) -> dict[str, float]:
        """Figures of all batches that were looked at, over all processes, and forget them."""
        figures: dict[str, float] = self.quality.compute(self.gather)
        return figures

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Look at a batch, see :meth:`judge_batch`."""
        self.judge_batch(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log what :meth:`quality_figures` says."""
        self._log_quality("val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation, of the first test loader."""
        if dataloader_idx == 0:
            self.judge_batch(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self._log_quality("test")

    def _log_quality(self, part: str) -> None:
        if self.quality is None:
            return
        if self.trainer.sanity_checking:
            self.quality.reset()
            return
        for name, value in self.quality_figures().items():
            self.log(f"{part}/{name}", value, prog_bar=name in self.shown_figures, sync_dist=True)

    def on_validation_start(self) -> None:
        """Take standing statistics, if they are asked for."""
        if getattr(self, "ready_to_sample", True):
            self._evaluation.enter_context(self.standing_statistics())

    def on_validation_end(self) -> None:
        """Put the running averages back."""
        self._evaluation.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def critic_score_terms(self, real: Tensor, fake: Tensor) -> Terms:
        """The adversarial part of the critic's loss, from scores of real and of generated images."""
        return {"adversarial": critic_loss(real.float(), fake.float(), self.gan_loss)}

    def generator_score_terms(self, fake: Tensor) -> Terms:
        """The adversarial part of the generator's loss, from scores of generated images."""
        return {"adversarial": generator_loss(fake.float(), self.gan_loss)}

    def penalty_terms(self, critic: Any, real: Tensor, fake: Tensor, mask: Tensor | None = None) -> Terms:
        """The penalties that are switched on, weighted.

        Args:
            critic: from images ``(B, 3, H, W)`` to scores.
            real: images in [0, 1].
            fake: generated images of the same shape.
            mask: as for :func:`functional.gan_losses.gradient_penalty`.
        """
        terms = {}
        if self.gradient_penalty_weight:
            share = self.uniform(len(real))
            penalty = gradient_penalty(critic, real, fake, share, mask).mean()
            terms["gradient_penalty"] = self.gradient_penalty_weight * penalty
        if self.r1_weight:
            terms["r1"] = self.r1_weight * r1_penalty(critic, real).mean()
        return terms

    def normal(self, count: int, *shape: int) -> Tensor:
        """Standard normal numbers ``(count, *shape)`` for the samples of this process."""
        return self._draw(torch.randn, count, shape)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), ``(count, *shape)``, for the samples of this process."""
        return self._draw(torch.rand, count, shape)

    def _draw(self, kind: Any, count: int, shape: Sequence[int]) -> Tensor:
        attached = self._trainer is not None
        world, rank = (self.trainer.world_size, self.global_rank) if attached else (1, 0)
        position = (self.noise_seed, self.generator_steps, self.critic_steps, self._drawn)
        self._drawn += 1
        seed = int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))
        # Of the joint batch, whose samples are dealt to the processes in turn.
        numbers = kind((world * count, *shape), generator=torch.Generator().manual_seed(seed))
        return numbers[rank::world].to(self.device, non_blocking=True)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Steps of both players on the minibatches of a batch."""
        self.play(batch)

    def play(self, batch: Batch) -> None:
        """Cut a batch into minibatches and let the players take their steps."""
        minibatches = self._minibatches(batch)
        for start in range(0, len(minibatches), self.accumulate):
            if self.finished:
                break
            self.step(minibatches[start : start + self.accumulate])
        if self.finished:
            self.trainer.should_stop = True
            self.trainer.check_val_every_n_epoch = 1  # the last weights are looked at, whatever epoch they fall in

    @property
    def finished(self) -> bool:
        """Whether the generator has taken all its steps."""
        return self.max_generator_steps is not None and self.generator_steps >= self.max_generator_steps

    def step(self, minibatches: list[Batch]) -> None:
        """A step of the critic on minibatches, and one of the generator when it is its turn."""
        self._player_step("critic", minibatches)
        self.critic_steps += 1
        if self.critic_steps % self.critic_steps_per_generator == 0:
            self._player_step("generator", minibatches)
            self.generator_steps += 1
            self.average.update(self.generator)
            for scheduler in self.gan_schedulers():
                scheduler.step()

    def gan_schedulers(self) -> list[Any]:
        """Schedulers of the two players."""
        found: Any = self.lr_schedulers() or []
        return list(found) if isinstance(found, list | tuple) else [found]

    def player_optimizers(self) -> dict[Player, Any]:
        """Optimiser of each player, as Lightning wraps them."""
        optimizers: Any = self.optimizers()
        return {"generator": optimizers[0], "critic": optimizers[1]}

    def _player_step(self, player: Player, minibatches: list[Batch]) -> None:
        optimizer = self.player_optimizers()[player]
        terms_of = self.critic_terms if player == "critic" else self.generator_terms
        self._drawn = 0
        totals: Terms = {}
        with self.toggled_optimizer(optimizer):
            optimizer.zero_grad()
            for minibatch in minibatches:
                terms = terms_of(minibatch)
                self._refuse_nan(terms, player)
                self.manual_backward(torch.stack(list(terms.values())).sum() / len(minibatches))
                for name, value in terms.items():
                    totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach() / len(minibatches)
            if self.clip_norm is not None:
                self.clip_gradients(optimizer, gradient_clip_val=self.clip_norm, gradient_clip_algorithm="norm")
            optimizer.step()
        size = sum(len(minibatch["image"]) for minibatch in minibatches)
        totals["loss"] = torch.stack(list(totals.values())).sum()
        self.log_dict({f"train/{player}_{name}": value for name, value in totals.items()}, batch_size=size)
        if player == "generator":
            self.log("generator_step", float(self.generator_steps + 1), prog_bar=True, batch_size=size)

    def _refuse_nan(self, terms: Terms, player: Player) -> None:
        if torch.isfinite(torch.stack([value.detach() for value in terms.values()])).all():
            return
        broken = ", ".join(f"{name}={float(value.detach())}" for name, value in terms.items() if not value.isfinite())
        step = {"generator": self.generator_steps, "critic": self.critic_steps}[player] + 1
        raise FloatingPointError(
            f"{player} step {step}: {broken}. The run stops before weights are spoilt; go on from the last checkpoint "
            "with a lower learning rate, a penalty, model.clip_norm, or bf16-mixed instead of 16-mixed."
        )

    def _minibatches(self, batch: Batch) -> list[Batch]:
        size, count = self.minibatch, len(batch["image"])
        if size is None or count <= size:
            return [batch]  # of the loader's own size
        starts = range(0, count - size + 1, size)
        return [{key: value[start : start + size] for key, value in batch.items()} for start in starts]

    def gather(self, parts: list[Tensor]) -> Tensor:
        """All parts of all processes along the first dimension, in the order of ranks."""
        mine = torch.cat(parts)
        if self.trainer.world_size == 1:
            return mine
        everyone: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, mine.cpu())
        return torch.cat(everyone).to(self.device)

    def configure_optimizers(self) -> Any:
        """Optimisers of both players, and their schedulers if there are any."""
        players = (self.generator_factory, self.generator), (self.critic_factory, self.critic)
        optimizers = [factory(network.parameters()) for factory, network in players]
        schedule = self.gan_scheduler_factory
        return optimizers, [schedule(optimizer) for optimizer in optimizers] if schedule else []

    def on_fit_start(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: for clipping under a gradient scaler.
        """
        if self.clip_norm is not None and str(self.trainer.precision) == "16-mixed":
            raise ValueError("model.clip_norm would clip scaled gradients under 16-mixed; use bf16-mixed.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counters."""
        checkpoint["gan_position"] = [self.generator_steps, self.critic_steps]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.generator_steps, self.critic_steps = checkpoint["gan_position"]
