"""Common ground of GANs, through the latent-conditioned one with tiny networks: steps, averages, resumption, guards."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules import GANAdam, LatentConditionedGAN
from lightning_modules.ema import ExponentialAverage

pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step", "ignore:Found .* module")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TINY = {"image_size": 32, "latent_size": 4, "generator_width": 4, "critic_width": 4, "num_classes": 3}


class Squares(Dataset):
    """Noise with a bright square whose place is the class."""

    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(count, 3, 32, 32, generator=generator) / 4
        for index in range(count):
            self.images[index, :, 8:24, 10 * (index % 3) : 10 * (index % 3) + 10] += 0.7

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index % 3, "path": f"{index:03d}"}


def loader(size=8, shuffle=False):
    return DataLoader(Squares(), batch_size=size, shuffle=shuffle)


def gan(**options):
    seed_everything(0, verbose=False)
    return LatentConditionedGAN(**{"condition": "label", **TINY, **options})


def fit(model, size=8, **options):
    settings = {"max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 0, **QUIET}
    trainer = Trainer(**{**settings, **options})
    trainer.fit(model, loader(size))
    return trainer


def test_average_follows_its_closed_form_and_keeps_running_statistics():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ExponentialAverage(network, 0.9)
    with torch.no_grad():
        for tensor in average.network.parameters():
            tensor.zero_()
        for tensor in network.parameters():
            tensor.fill_(1)
        network[1].num_batches_tracked.fill_(7)
        network[1].running_mean.fill_(2)
    for _ in range(5):
        average.update(network)
    for tensor in average.network.parameters():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 1 - 0.9**5))
        assert not tensor.requires_grad
    torch.testing.assert_close(average.network[1].running_mean, torch.full((2,), 2 * (1 - 0.9**5)))
    assert average.network[1].num_batches_tracked == 7
    assert not average.train().network.training
    with pytest.raises(ValueError, match=r"ema_decay=1\.0 must lie in \[0, 1\)"):
        ExponentialAverage(network, 1.0)


def test_players_take_their_turns_on_minibatches():
    model = gan(minibatch=4, critic_steps_per_generator=2, ema_decay=0.0)
    fit(model)  # 3 batches of 2 minibatches in each of 2 epochs
    assert (model.critic_steps, model.generator_steps) == (12, 6)
    model = gan(minibatch=2, accumulate=3)  # 4 minibatches: steps of 3 and of 1
    fit(model, max_epochs=1)
    assert model.critic_steps == model.generator_steps == 6


def test_training_ends_after_the_generator_steps_that_were_asked_for():
    model = gan(minibatch=4, max_generator_steps=5)
    looked_at = []
    model.on_validation_end = lambda: looked_at.append(model.generator_steps)
    data = loader()
    trainer = Trainer(max_epochs=-1, check_val_every_n_epoch=10, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data, data)
    assert model.generator_steps == 5
    assert trainer.current_epoch <= 1
    assert looked_at[-1] == 5  # the last weights, in an epoch that would not be validated


def test_a_step_of_one_player_leaves_the_other_alone():
    model = gan(critic_steps_per_generator=2)
    before = copy.deepcopy(model.state_dict())
    fit(model, size=24, max_epochs=1)  # a single critic step
    assert (model.critic_steps, model.generator_steps) == (1, 0)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("critic") for name in changed)
    # The generator makes images, so its running statistics move, but no weight of it or of its average.
    assert all("running" in name or "tracked" in name for name in changed if not name.startswith("critic"))


def test_accumulated_minibatches_are_one_large_batch():
    """Without batch statistics the gradient of a mean is the mean of the gradients."""
    weights = []
    for options in ({}, {"minibatch": 4, "accumulate": 2}):
        model = gan(gan_loss="wasserstein", **options)
        torch.manual_seed(1)
        drawn = torch.randn(8, 4)
        noise = iter([drawn] if not options else drawn.split(4))
        model.normal = lambda count, *shape, noise=noise: next(noise)
        batch = next(iter(loader()))
        parts = [batch] if not options else model._minibatches(batch)
        model.eval()
        total = sum(sum(model.critic_terms(part).values()) for part in parts) / len(parts)
        total.backward()
        weights.append(model.critic.score.parametrizations.weight.original.grad.clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    options = {"minibatch": 4, "critic_steps_per_generator": 3, "gradient_penalty_weight": 10.0, "jitter": 0.1}
    options["gan_lr_scheduler"] = lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 20)
    whole = gan(**options)
    fit(whole, max_epochs=4)
    half = gan(**options)
    fit(half, max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)
    resumed = LatentConditionedGAN(**{"condition": "label", **TINY, **options})
    trainer = Trainer(max_epochs=4, enable_checkpointing=False, **QUIET)
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert (resumed.critic_steps, resumed.generator_steps) == (whole.critic_steps, whole.generator_steps) == (24, 8)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_schedules_step_with_the_generator():
    schedule = torch.optim.lr_scheduler.LinearLR
    model = gan(critic_steps_per_generator=3, gan_lr_scheduler=lambda o: schedule(o, 1.0, 0.0, total_iters=4))
    trainer = fit(model, max_epochs=3)  # 9 critic steps, 3 of the generator
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([5e-5, 5e-5])


def test_processes_draw_what_one_would_with_their_joint_batch():
    model = gan()
    joint = model.normal(6, 2)

    class Two:
        world_size = 2

    parts = []
    for rank in range(2):
        model._drawn = 0
        model._trainer, Two.global_rank = Two(), rank
        type(model).global_rank = rank
        try:
            parts.append(model.normal(3, 2))
        finally:
            model._trainer = None
            del type(model).global_rank
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), joint)


def test_draws_differ_within_a_step_and_repeat_with_its_counters():
    model = gan()
    first, second = model.normal(4, 3), model.normal(4, 3)
    assert not torch.equal(first, second)
    model._drawn = 0
    assert torch.equal(model.normal(4, 3), first)
    model.critic_steps, model._drawn = 1, 0
    assert not torch.equal(model.normal(4, 3), first)
    assert not torch.equal(gan(noise_seed=1).normal(4, 3), first)


def test_objective_of_a_player_is_repeatable_and_does_not_advance_anything():
    model = gan().eval()
    batch = next(iter(loader()))
    model.critic_steps = model.generator_steps = 3
    for player in ("generator", "critic"):
        assert torch.equal(model.objective(batch, player), model.objective(batch, player))
    assert (model.critic_steps, model.generator_steps) == (3, 3)
    assert not torch.equal(model.objective(batch, "critic"), model.objective(batch, "generator"))


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_nan_stops_with_the_step_and_the_term(player):
    model = gan()
    terms = getattr(model, f"{player}_terms")

    def broken(batch):
        found = terms(batch)
        steps = getattr(model, f"{player}_steps")
        return found if steps < 2 else {**found, "penalty": found["adversarial"] * float("nan")}

    setattr(model, f"{player}_terms", broken)
    with pytest.raises(FloatingPointError, match=f"{player} step 3: penalty=nan"):
        fit(model)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_clipping_bounds_the_gradient_and_is_refused_under_a_scaler():
    norms = []

    class Recording(GANAdam):
        def step(self, closure=None):
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
            return super().step(closure)

    fit(gan(clip_norm=0.01, critic_optimizer=Recording, generator_optimizer=Recording), max_epochs=1)
    assert len(norms) == 6
    assert max(norms) < 0.0101
    model = gan(clip_norm=1.0)
    model._trainer = SimpleNamespace(precision="16-mixed")  # a trainer on the CPU has no scaler
    with pytest.raises(ValueError, match="use bf16-mixed"):
        model.on_fit_start()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains_with_penalties(precision):
    model = gan(gradient_penalty_weight=10.0, r1_weight=1.0)
    trainer = fit(model, max_epochs=1, precision=precision)
    assert model.generator_steps == 3
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"train/critic_gradient_penalty", "train/critic_r1", "train/generator_loss"} <= logged.keys()
    assert all(np.isfinite(value) for value in logged.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gan_loss": "lsgan"}, "gan_loss='lsgan'"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"clip_norm": 0.0}, r"clip_norm=0\.0 must be positive"),
        ({"ema_decay": 1.0}, r"ema_decay=1\.0"),
        ({"r1_weight": -1.0}, r"r1_weight=-1\.0"),
        ({"standing_batches": -1}, "standing_batches=-1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        gan(**options)


def test_standing_statistics_are_those_of_fresh_samples_and_leave_nothing_behind():
    model = gan(standing_batches=3, minibatch=8)
    fit(model)
    norm, seen = model.sampler.network.blocks[0].norm1.norm, []
    before = copy.deepcopy(model.state_dict())
    handle = norm.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    with model.standing_statistics():
        assert len(seen) == 3
        assert all(len(x) == 8 for x in seen)
        expected = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
        torch.testing.assert_close(norm.running_mean, expected)
        assert not torch.allclose(norm.running_mean, before["average.network.blocks.0.norm1.norm.running_mean"])
        assert not norm.training
    handle.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_samples_with_standing_statistics(stage):
    model = gan(standing_batches=2, minibatch=8)
    model.seen = []
    mean = model.sampler.network.norm.running_mean
    step = "validation_step" if stage == "validate" else "test_step"
    setattr(model, step, lambda *_: model.seen.append(mean.clone()))
    before = mean.clone()
    getattr(Trainer(**QUIET), stage)(model, loader(), verbose=False)
    assert all(torch.equal(value, model.seen[0]) for value in model.seen)
    assert not torch.allclose(model.seen[0], before)
    assert torch.equal(mean, before)
