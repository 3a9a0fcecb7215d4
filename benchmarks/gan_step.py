"""Step time of a GAN under Lightning against a plain PyTorch loop of the same networks, losses and optimisers.

Run ``python benchmarks/gan_step.py [--device cuda] [--steps 20] [--rounds 5]``. A step is ``--critic-steps`` steps of
the critic and one of the generator. Both loops start from the same weights, are fed the same batches and run in turn;
printed are the median times and their ratios, plain over ours: the goal is at least 0.95. The plain loop is measured
with our layout of the weights (channels last) and with PyTorch's own.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from itertools import pairwise

import torch
from detector_step import StepTimes, synchronise
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.functional import one_hot, relu
from torch.utils.data import DataLoader

from callbacks import SeedPerRank
from lightning_modules import GANAdam, LatentConditionedGAN

CLASSES = 10


def make_gan(options: argparse.Namespace) -> LatentConditionedGAN:
    """The GAN that both loops train, always from the same weights; one batch of the loader is one generator step."""
    torch.manual_seed(0)
    return LatentConditionedGAN(
        condition="label",
        num_classes=CLASSES,
        image_size=options.size,
        generator_width=options.generator_width,
        critic_width=options.critic_width,
        minibatch=options.batch,
        critic_steps_per_generator=options.critic_steps,
    )


def our_step(options: argparse.Namespace, loader: DataLoader) -> float:
    """Median seconds from batch to batch, with logging of every term, average, guard and seeds as in a normal run."""
    times = StepTimes()
    trainer = Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
        callbacks=[SeedPerRank(), times],
    )
    trainer.fit(make_gan(options), loader)
    return statistics.median(b - a for a, b in pairwise(times.ends[2:]))


def plain_step(options: argparse.Namespace, loader: DataLoader, channels_last: bool) -> float:
    """Median seconds of the loop that one would write by hand, with the average of the generator."""
    gan = make_gan(options).to(options.device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator, critic, average = (net.to(memory_format=layout) for net in (gan.generator, gan.critic, gan.average))
    generator.train(), critic.train()
    generator_adam, critic_adam = GANAdam(generator.parameters()), GANAdam(critic.parameters())
    ends: list[float] = []
    for batch in loader:
        for images, labels in zip(
            batch["image"].to(options.device).split(options.batch),
            batch["label"].to(options.device).split(options.batch),
            strict=True,
        ):
            condition = 8.0 * one_hot(labels, CLASSES).float()
            with torch.no_grad():
                fake = generator(_noise(gan, images), condition)
            critic.requires_grad_(True)
            loss = relu(1 - critic(images, condition)).mean() + relu(1 + critic(fake, condition)).mean()
            critic_adam.zero_grad()
            loss.backward()
            critic_adam.step()
        critic.requires_grad_(False)
        loss = -critic(generator(_noise(gan, images), condition), condition).mean()
        generator_adam.zero_grad()
        loss.backward()
        generator_adam.step()
        average.update(generator)
        synchronise()
        ends.append(time.perf_counter())
    return statistics.median(b - a for a, b in pairwise(ends[2:]))


def _noise(gan: LatentConditionedGAN, images: Tensor) -> Tensor:
    return torch.randn(len(images), gan.latent_size, device=images.device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--critic-steps", type=int, default=2)
    parser.add_argument("--generator-width", type=int, default=48)
    parser.add_argument("--critic-width", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    draws = torch.Generator().manual_seed(0)
    count = options.batch * options.critic_steps
    images = torch.rand(count, 3, options.size, options.size, generator=draws)
    samples = [{"image": image, "label": index % CLASSES} for index, image in enumerate(images)]
    loader = DataLoader(torch.utils.data.ConcatDataset([samples] * options.steps), batch_size=count)
    times: dict[str, list[float]] = {"ours": [], "plain, channels last": [], "plain, PyTorch's layout": []}
    for _ in range(options.rounds):
        times["ours"].append(our_step(options, loader))
        times["plain, channels last"].append(plain_step(options, loader, channels_last=True))
        times["plain, PyTorch's layout"].append(plain_step(options, loader, channels_last=False))
    print(f"\nbatch {options.batch} of {options.size} px, {options.critic_steps} critic steps, {options.device}")
    for name, values in times.items():
        ratios = [value / own for value, own in zip(values, times["ours"], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{name:26} {1e3 * statistics.median(values):8.1f} ms   {statistics.median(ratios):6.3f} ({spread})")


if __name__ == "__main__":
    main()
