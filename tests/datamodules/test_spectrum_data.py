"""Datamodules of spectra: native sizes, the JPEG's luma, alignment, splits, tables, messages."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import noise, write_image

from datamodules import FeatureTableDataModule, ManifestError, SpectrumDataModule
from datamodules.image_dataset import Preparation
from datamodules.luma import jpeg_luma, luma_plane
from datamodules.sampling import Draw
from datamodules.spectrum_dataset import SpectrumDataset, as_bits, from_bits
from functional.spectrum import RadialSpectrum, radial_log_spectrum

ROWS = {"path": ["a.jpg", "b.png"], "label": [1, 0], "generator": ["gan", "real"]}


@pytest.fixture
def two_images(tmp_path):
    rng = np.random.default_rng(0)
    pixels = {"a.jpg": noise(rng, 40, 40), "b.png": noise(rng, 64, 50)}
    for name, image in pixels.items():
        write_image(tmp_path / name, image)
    return tmp_path, pixels


def spectrum_of(sample) -> torch.Tensor:
    return from_bits(sample["spectrum"])


def test_spectra_are_those_of_the_stored_luma_at_its_own_size(two_images):
    root, _ = two_images
    settings = RadialSpectrum(features=20, relative=True)
    dataset = SpectrumDataset(pd.DataFrame(ROWS), root, settings, Preparation(1))
    cached = SpectrumDataset(pd.DataFrame(ROWS), root, settings, Preparation(1), cached=True)
    for index, name in enumerate(ROWS["path"]):
        plane = torch.from_numpy(luma_plane(root / name)).double()
        expected = radial_log_spectrum(plane, 20, True)
        torch.testing.assert_close(spectrum_of(dataset[index]), expected, rtol=0, atol=0)
        torch.testing.assert_close(spectrum_of(cached[Draw(index, 5)]), expected, rtol=0, atol=0)
        assert dataset[index]["label"] == ROWS["label"][index]
        assert "image" not in dataset[index]


def test_reencoded_fakes_are_read_from_the_new_file(two_images):
    root, pixels = two_images
    settings = RadialSpectrum(features=20)
    fakes = SpectrumDataset(pd.DataFrame(ROWS), root, settings, Preparation(1, quality=60))
    again = jpeg_luma(np.asarray(_decoded(root / "a.jpg")), 60)
    torch.testing.assert_close(spectrum_of(fakes[0]), radial_log_spectrum(torch.from_numpy(again).double(), 20))
    untouched = torch.from_numpy(luma_plane(root / "b.png")).double()
    torch.testing.assert_close(spectrum_of(fakes[1]), radial_log_spectrum(untouched, 20))
    both = SpectrumDataset(pd.DataFrame(ROWS), root, settings, Preparation(1, quality=60, reencode_reals=True))
    again = torch.from_numpy(jpeg_luma(pixels["b.png"], 60)).double()
    torch.testing.assert_close(spectrum_of(both[1]), radial_log_spectrum(again, 20))


def _decoded(path):
    from datamodules.decoding import decode_image

    return decode_image(path)


def test_colour_crop_size_and_thumbnail(two_images):
    root, pixels = two_images
    colour = SpectrumDataset(
        pd.DataFrame(ROWS), root, RadialSpectrum(colour="rgb"), Preparation(1), center_crop=32, thumbnail=16
    )
    planes = torch.from_numpy(pixels["b.png"]).permute(2, 0, 1).double()[:, 16:48, 9:41]
    torch.testing.assert_close(spectrum_of(colour[1]), radial_log_spectrum(planes).flatten())
    assert colour[1]["image"].shape == (3, 16, 16)
    assert colour[1]["image"].dtype == torch.uint8
    resized = SpectrumDataset(pd.DataFrame(ROWS), root, RadialSpectrum(), Preparation(1, common_size=24))
    assert spectrum_of(resized[0]).shape == radial_log_spectrum(torch.rand(24, 24)).shape
    with pytest.raises(ValueError, match=r"b\.png has 50 x 64 pixels; lower data\.center_crop=60"):
        SpectrumDataset(pd.DataFrame(ROWS), root, RadialSpectrum(), Preparation(1), center_crop=60)[1]


def test_bits_survive_half_precision():
    features = torch.randn(3, 4, dtype=torch.float64)
    bits = as_bits(features)
    assert not bits.is_floating_point()
    assert torch.equal(from_bits(torch.stack([bits, bits]))[1], features)


def test_every_training_image_is_seen_once(real_fake_root):
    data = SpectrumDataModule(root=str(real_fake_root), batch_size=32, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    batches = [data.on_after_batch_transfer(data.on_before_batch_transfer(b, 0), 0) for b in data.train_dataloader()]
    paths = [path for batch in batches for path in batch["path"]]
    assert sorted(paths) == sorted(data.train_set.paths)
    assert len(paths) % 32  # the last batch is not full
    assert batches[0]["spectrum"].shape == (32, 80)
    assert batches[0]["spectrum"].dtype == torch.float64
    data.setup("test")
    assert set(data.train_set.paths).isdisjoint(data.test_sets["fake"].paths)


def test_sizes_that_differ_between_the_classes_are_warned_of(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for label, side in (("real", 40), ("fake", 48)):
        for index in range(20):
            write_image(tmp_path / "data" / label / f"{index}.png", noise(rng, side, side))

    def ready(**options):
        data = SpectrumDataModule(root=str(tmp_path / "data"), num_workers=0, **options)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            data.setup("fit")
        return caplog.text

    caplog.set_level(logging.WARNING, logger="lightning.pytorch.datamodules")
    logging.getLogger("lightning.pytorch").propagate = True
    try:
        assert "gives the size away" in ready()
        assert "gives the size away" not in ready(common_size=40)
        assert "gives the size away" not in ready(center_crop=40)
        with pytest.raises(ManifestError, match=r"data\.spectrum\.features"):
            ready(spectrum=RadialSpectrum())
    finally:
        logging.getLogger("lightning.pytorch").propagate = False


def write_table(path, count=60, features=6, **arrays):
    rng = np.random.default_rng(0)
    is_fake = np.arange(count) % 2 == 1
    values = rng.normal(size=(count, features)) + 3 * is_fake[:, None]
    np.savez(path, **{"features": values, "is_fake": is_fake, **arrays})
    return values, is_fake


def test_table_splits_keep_groups_together(tmp_path):
    groups = np.array([f"video{index // 6}" for index in range(60)])
    values, is_fake = write_table(tmp_path / "t.npz", group=groups)
    data = FeatureTableDataModule(str(tmp_path / "t.npz"), val_fraction=0.2, test_fraction=0.2)
    data.setup("fit")
    sets = {"train": data.train_set, "val": data.val_set, "test": data.test_sets["t"]}
    videos = {name: {groups[int(path[-6:])] for path in part.paths} for name, part in sets.items()}
    assert not videos["train"] & videos["test"]
    assert not videos["train"] & videos["val"]
    assert sum(map(len, sets.values())) == 60
    sample = data.test_sets["t"][0]
    row = int(sample["path"][-6:])
    np.testing.assert_array_equal(from_bits(sample["spectrum"]), values[row])
    assert sample["label"] == int(is_fake[row])


def test_second_table_is_the_test_set(tmp_path):
    write_table(tmp_path / "a.npz")
    write_table(tmp_path / "b.npz", count=10)
    data = FeatureTableDataModule(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), val_fraction=0.1)
    data.setup("test")
    assert len(data.test_sets["b"]) == 10
    assert len(data.train_set) == 54


def test_tables_that_are_none(tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        FeatureTableDataModule(str(tmp_path / "t.npz")).setup("fit")
    np.savez(tmp_path / "t.npz", data=np.zeros(3))
    with pytest.raises(ManifestError, match=r"\['data'\]; it needs `features`"):
        FeatureTableDataModule(str(tmp_path / "t.npz")).setup("fit")
    write_table(tmp_path / "t.npz", label=np.full(60, 7), is_fake=np.full(60, 7))
    with pytest.raises(ManifestError, match=r"60 labels \[7\]"):
        FeatureTableDataModule(str(tmp_path / "t.npz")).setup("fit")
    np.savez(tmp_path / "t.npz", features=np.array([{}], dtype=object), is_fake=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle"):
        FeatureTableDataModule(str(tmp_path / "t.npz")).setup("fit")
