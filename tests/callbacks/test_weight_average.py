"""Averages of weights: the closed form, what checkpoints hold, and that training goes on as without them."""

from __future__ import annotations

import pytest
import torch
from landscape_modules import Classifier, Points
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from callbacks import SeedPerRank, WeightAverage
from lightning_modules import LatentConditionedGAN, PixelEmbedding


def fit(tmp_path, module, epochs, *callbacks, ckpt_path=None):
    seed_everything(0, verbose=False)
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[SeedPerRank(), *callbacks, keep],
    )
    trainer.fit(module, DataLoader(Points(), batch_size=16), DataLoader(Points(16), batch_size=16), ckpt_path=ckpt_path)
    return torch.load(tmp_path / "last.ckpt", weights_only=True)


class Watching(Classifier):
    """Notes the first weight at every batch, and what validation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_train_batch_end(self, *args):
        self.seen.append(self.network[0].weight.detach().clone())

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.network[0].weight.detach().clone())
        super().validation_step(batch, batch_idx)


def test_validation_and_checkpoint_hold_the_average_that_its_definition_gives(tmp_path):
    module = Watching()
    expected = module.network[0].weight.detach().clone()
    state = fit(tmp_path, module, 2, WeightAverage(0.9))
    for weight in module.seen:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(state["state_dict"]["network.0.weight"], expected)
    torch.testing.assert_close(module.validated[-1], expected)
    torch.testing.assert_close(module.network[0].weight.detach(), expected)  # what fit leaves
    torch.testing.assert_close(state["weight_average"]["weights"]["network.0.weight"], module.seen[-1])
    assert not torch.equal(state["state_dict"]["network.1.running_mean"], torch.zeros(4))


def test_training_is_that_of_an_unwatched_run(tmp_path):
    plain = fit(tmp_path / "plain", Classifier(), 3)["state_dict"]
    watched = fit(tmp_path / "watched", Classifier(), 3, WeightAverage(0.5))["weight_average"]["weights"]
    assert all(torch.equal(watched[name], plain[name]) for name in watched)


def test_a_resumed_run_goes_on_from_weights_and_average(tmp_path):
    whole = fit(tmp_path / "whole", Classifier(), 4, WeightAverage(0.8))
    fit(tmp_path / "part", Classifier(), 2, WeightAverage(0.8))
    part = fit(tmp_path / "part", Classifier(), 4, WeightAverage(0.8), ckpt_path=tmp_path / "part" / "last.ckpt")
    assert part["weight_average"]["step"] == whole["weight_average"]["step"] == 12
    for mine, theirs in ((part, whole), (part["weight_average"], whole["weight_average"])):
        key = "state_dict" if "state_dict" in mine else "weights"
        assert all(torch.equal(mine[key][name], theirs[key][name]) for name in theirs[key])


def test_first_steps_can_be_left_out(tmp_path):
    module = Watching()
    state = fit(tmp_path, module, 1, WeightAverage(0.9, start_step=3))
    torch.testing.assert_close(state["state_dict"]["network.0.weight"], module.seen[-1])


def test_what_has_nothing_to_average_is_refused_by_name(tmp_path):
    gan = LatentConditionedGAN(condition="none", image_size=32)
    with pytest.raises(TypeError, match=r"averages its generator itself.*model\.ema_decay"):
        WeightAverage().setup(None, gan, "fit")
    with pytest.raises(TypeError, match=r"PixelEmbedding\.parameters\(\) that are trained by gradient descent"):
        WeightAverage().setup(None, PixelEmbedding(), "fit")
    with pytest.raises(ValueError, match=r"decay=1\.0"):
        WeightAverage(1.0)
    fit(tmp_path, Classifier(), 1)
    with pytest.raises(ValueError, match="trained without WeightAverage"):
        fit(tmp_path, Classifier(), 2, WeightAverage(), ckpt_path=tmp_path / "last.ckpt")
