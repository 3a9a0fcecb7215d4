"""The data-free check: pictures follow from the seed, fall as 1/f, and the halves differ by up-sampling alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules import UpsampledNoiseDataModule
from datamodules.spectrum_dataset import from_bits
from datamodules.upsampled_noise import power_law_picture
from functional.spectrum import RadialSpectrum, radial_log_spectrum, spectrum_frequencies


def test_power_falls_with_the_square_of_the_frequency():
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(np.stack([power_law_picture(rng, 128) for _ in range(20)])).double()
    spectrum = radial_log_spectrum(pictures, 40, axis="cycles", disc_only=True, power=True).mean(0).numpy()
    frequency = spectrum_frequencies(128, 128, 40, axis="cycles", disc_only=True)
    slope = np.polyfit(np.log(frequency[2:20]), spectrum[2:20] / 10, 1)[0]
    assert slope == pytest.approx(-2, abs=0.2)


def test_sets_are_reproducible_balanced_and_different():
    first, again = UpsampledNoiseDataModule(size=32, seed=3), UpsampledNoiseDataModule(size=32, seed=3)
    sample = first.train_set[5]
    assert torch.equal(sample["spectrum"], again.train_set[5]["spectrum"])
    assert sample["label"] == 1
    assert sample["generator"] == "bicubic"
    assert not torch.equal(sample["spectrum"], first.val_set[5]["spectrum"])
    assert len({s["path"] for s in (first.train_set[0], first.val_set[0], first.test_sets["upsampled"][0])}) == 3
    batch = next(iter(first.train_dataloader()))
    assert int(batch["label"].sum()) == 10
    assert from_bits(batch["spectrum"]).shape == (20, 80)
    colour = UpsampledNoiseDataModule(RadialSpectrum(features=8, colour="rgb"), size=32)
    assert from_bits(colour.train_set[0]["spectrum"]).shape == (24,)


def test_refusals():
    with pytest.raises(ValueError, match=r"data\.size=33"):
        UpsampledNoiseDataModule(size=33)
