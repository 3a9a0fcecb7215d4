"""Real/fake datamodules: the batch contract, alignment of codecs, splits, GenImage's layouts, messages."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import noise, write_image
from PIL import Image
from torch.utils.data import default_collate

from datamodules import GenImageDataModule, ManifestError, ProceduralGenImageDataModule, RealFakeDataModule
from datamodules.image_dataset import ManifestDataset, Preparation
from datamodules.sampling import Draw
from datamodules.scan import list_images
from datamodules.transforms import Augmentation, compress_windows


def ready(datamodule: RealFakeDataModule, stage: str = "fit") -> RealFakeDataModule:
    datamodule.prepare_data()
    datamodule.setup(stage)
    return datamodule


def saved_by_pillow(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_batches_keep_the_contract(real_fake_root):
    data = ready(RealFakeDataModule(root=str(real_fake_root), image_size=32, batch_size=8, num_workers=0))
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].dtype == torch.uint8  # on its way; the device makes it float
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
    assert batch["image"].shape == (8, 3, 32, 32)
    assert batch["image"].dtype == torch.float32
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert batch["label"].dtype == torch.int64
    assert len(batch["path"]) == len(batch["generator"]) == 8
    names = {(int(label), generator) for label, generator in zip(batch["label"], batch["generator"], strict=True)}
    assert names <= {(0, "real"), (1, "fake")}


def test_splits_are_disjoint_and_stratified(real_fake_root):
    data = ready(RealFakeDataModule(root=str(real_fake_root), image_size=32, num_workers=0))
    table = pd.crosstab(data.manifest["split"], data.manifest["label"])
    assert table.loc["test"].tolist() == [8, 8]
    assert table.loc["val"].tolist() == [4, 4]
    assert set(data.train_set.paths).isdisjoint(data.val_set.paths)


def crops(dataset, draws) -> np.ndarray:
    """Samples as they leave the codec on the device, uint8 ``(N, H, W, 3)``."""
    batch = default_collate([dataset[draw] for draw in draws])
    images = batch["image"]
    if "codec" in batch:
        images = compress_windows(images, {key: value.tolist() for key, value in batch["codec"].items()})
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("codec", ["device", "pillow"])
@pytest.mark.parametrize("shape", [(50, 61), (200, 187), (32, 32), (33, 96)])
def test_fakes_are_aligned_at_native_size_before_the_crop(tmp_path, codec, shape):
    """The pixels that reach training are those of Pillow's own quality-96 file, cut afterwards, wherever the cut is."""
    pixels = noise(np.random.default_rng(0), *shape)
    write_image(tmp_path / "fake.png", pixels)
    rows = pd.DataFrame({"path": ["fake.png"] * 2, "label": [1, 0], "generator": ["g", "real"]})
    whole = {1: saved_by_pillow(pixels, 96), 0: pixels}
    for place in ("center", "random"):
        dataset = ManifestDataset(rows, tmp_path, Preparation(32, place, quality=96, codec=codec))
        draws = [Draw(index, seed) for seed in range(10) for index in (0, 1)]
        for draw, got in zip(draws, crops(dataset, draws), strict=True):
            top, left = dataset[draw]["crop_offset"].tolist()
            if place == "center":
                assert (top, left) == ((shape[0] - 32) // 2, (shape[1] - 32) // 2)
            np.testing.assert_array_equal(got, whole[1 - draw.item][top : top + 32, left : left + 32])


@pytest.mark.parametrize("cached", [False, True])
def test_where_the_codec_runs_changes_no_pixel(tmp_path, cached):
    """Also with drawn qualities, padded images, a common size, and a resize after the codec."""
    rng = np.random.default_rng(0)
    for index, shape in enumerate([(70, 90), (41, 120), (20, 25), (64, 64)]):
        write_image(tmp_path / f"{index}.png", noise(rng, *shape))
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(4)], "label": [1, 0, 1, -1], "generator": "g"})
    shares = np.zeros(101)
    shares[[60, 90]] = 0.5
    for options in (
        {"quality": 75},
        {"quality_shares": shares},
        {"quality": 30, "reencode_reals": True, "common_size": 48},
        {"quality": 30, "resize": 50},
        {"quality": 30, "crop": "resized"},
    ):
        preparation = Preparation(**{"crop_size": 40, "crop": "random", "reencode_reals": True, **options})
        on_device, in_worker = (
            crops(
                ManifestDataset(rows, tmp_path, replace(preparation, codec=codec), cached),
                [Draw(i, 7) for i in range(4)],
            )
            for codec in ("device", "pillow")
        )
        np.testing.assert_array_equal(on_device, in_worker)


def test_batches_tell_native_size_and_place_of_the_crop(real_fake_root):
    data = ready(RealFakeDataModule(root=str(real_fake_root), image_size=32, num_workers=0))
    batch = next(iter(data.val_dataloader()))
    assert batch["native_size"].tolist() == [[40, 48]] * len(batch["label"])
    assert batch["crop_offset"].tolist() == [[4, 8]] * len(batch["label"])
    resized = ready(RealFakeDataModule(root=str(real_fake_root), image_size=32, eval_resize=36, num_workers=0))
    assert next(iter(resized.val_dataloader()))["crop_offset"].unique().tolist() == [-1]


def test_reals_are_reencoded_only_when_asked(tmp_path):
    pixels = noise(np.random.default_rng(0), 40, 40)
    write_image(tmp_path / "a.png", pixels)
    rows = pd.DataFrame({"path": ["a.png"] * 3, "label": [0, 1, -1], "generator": ["real", "g", ""]})
    both = ManifestDataset(rows, tmp_path, Preparation(40, quality=80, reencode_reals=True))
    expected = saved_by_pillow(pixels, 80)
    for got in crops(both, [Draw(index, 1) for index in range(3)]):
        np.testing.assert_array_equal(got, expected)


def test_matched_quality_draws_from_the_histogram_by_seed(tmp_path):
    pixels = noise(np.random.default_rng(0), 40, 40)
    write_image(tmp_path / "a.png", pixels)
    rows = pd.DataFrame({"path": ["a.png"], "label": [1], "generator": ["g"]})
    shares = np.zeros(101)
    shares[[60, 90]] = 0.5
    dataset = ManifestDataset(rows, tmp_path, Preparation(40, quality_shares=shares))
    candidates = {q: saved_by_pillow(pixels, q) for q in (60, 90)}
    seen = []
    for seed in range(20):
        image = crops(dataset, [Draw(0, seed)])[0]
        seen += [q for q, expected in candidates.items() if np.array_equal(image, expected)]
    assert len(seen) == 20
    assert set(seen) == {60, 90}


def test_samples_follow_their_seed(tmp_path):
    write_image(tmp_path / "a.png", noise(np.random.default_rng(0), 80, 90))
    rows = pd.DataFrame({"path": ["a.png"], "label": [0], "generator": ["real"]})
    for crop in ("random", "resized"):
        plain = ManifestDataset(rows, tmp_path, Preparation(32, crop))
        cached = ManifestDataset(rows, tmp_path, Preparation(32, crop), cached=True)
        images = [plain[Draw(0, seed)]["image"] for seed in (1, 1, 2)]
        assert torch.equal(images[0], images[1])
        assert not torch.equal(images[0], images[2])
        assert torch.equal(images[0], cached[Draw(0, 1)]["image"])


def test_device_pipeline_is_seeded_by_the_batch(real_fake_root, monkeypatch):
    strong = {"erasing": 0.5, "noise": 0.1, "blur": 0.5, "rescale": 0.5, "rand_augment": 5, "brightness": 0.2}
    augmentation = Augmentation(resized_crop=(0.3, 1.0), jpeg=(60, 95), **strong)
    data = RealFakeDataModule(root=str(real_fake_root), image_size=16, augmentation=augmentation, augmented_views=2)
    monkeypatch.setattr(data, "trainer", type("T", (), {"training": True})())
    images = torch.rand(4, 3, 24, 24)

    def run(seed):
        return data.on_after_batch_transfer(
            data.on_before_batch_transfer({"image": images.clone(), "seed": torch.tensor([seed] * 4)}, 0), 0
        )

    state = torch.get_rng_state()
    first, again, other = run(1), run(1), run(2)
    assert torch.equal(torch.get_rng_state(), state)  # the training's own stream is not touched
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["views"], again["views"])
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].shape == (4, 3, 16, 16)
    assert first["views"].shape == (4, 2, 3, 16, 16)
    assert first["views"].min() >= 0
    assert first["views"].max() <= 1


def test_evaluation_crops_the_centre_and_nothing_else(real_fake_root):
    data = ready(RealFakeDataModule(root=str(real_fake_root), image_size=32, batch_size=4, num_workers=0), "test")
    (loader,) = data.test_dataloader().values()
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer(next(iter(loader)), 0), 0)
    expected = np.asarray(Image.open(real_fake_root / batch["path"][0]))[4:36, 8:40]
    np.testing.assert_array_equal((batch["image"][0] * 255).round().byte().permute(1, 2, 0), expected)


def test_named_folders_and_csv_give_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("photos", "gan_a", "gan_b"):
        for index in range(12):
            write_image(tmp_path / folder / f"{index}.png", noise(rng, 40, 40))
    named = RealFakeDataModule(
        root=str(tmp_path), real_folders=["photos"], fake_folders=["gan_a", "gan_b"], image_size=32, num_workers=0
    )
    ready(named, "test")
    assert list(named.test_sets) == ["gan_a", "gan_b"]
    table = named.manifest[["path", "label", "generator"]]
    table.to_csv(tmp_path / "list.csv", index=False)
    listed = RealFakeDataModule(root=str(tmp_path), manifest=str(tmp_path / "list.csv"), image_size=32, num_workers=0)
    ready(listed, "test")
    assert set(listed.manifest["path"]) == set(named.manifest["path"])
    assert list(listed.test_sets) == ["gan_a", "gan_b"]


def test_named_folders_keep_given_splits_and_classes(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("photos", "gan"):
        for split in ("train", "test"):
            for index in range(10):
                write_image(tmp_path / folder / split / "cat" / f"{index}.png", noise(rng, 40, 40))
    data = RealFakeDataModule(
        root=str(tmp_path), real_folders="photos", fake_folders="gan", image_size=32, num_workers=0
    )
    ready(data)
    assert not any("/test/" in path for path in data.train_set.paths + data.val_set.paths)
    assert set(data.manifest["class"]) == {"cat"}
    overlap = RealFakeDataModule(
        root=str(tmp_path), real_folders="photos", fake_folders=["photos/train"], image_size=32
    )
    with pytest.raises(ManifestError, match="overlap: photos/train/cat"):
        ready(overlap)


def test_small_images_are_refused_padded_or_dropped(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("real", "fake"):
        for index in range(20):
            write_image(tmp_path / label / f"{index}.png", noise(rng, 40 if index % 2 else 28, 40))
    common = {"root": str(tmp_path), "image_size": 32, "num_workers": 0, "cache_dir": str(tmp_path / "c")}
    with pytest.raises(ManifestError, match=r"Image size mismatch: \d+ of \d+ images .* with 40 x 28.*data.image_size"):
        ready(RealFakeDataModule(**common))
    padded = ready(RealFakeDataModule(**common, small_images="pad"))
    dropped = ready(RealFakeDataModule(**common, small_images="drop"))
    assert len(dropped.train_set) < len(padded.train_set)
    assert padded.train_set[Draw(0, 0)]["image"].shape == (3, 32, 32)


def test_corrupt_files_are_reported_and_skipped_or_refused(real_fake_root, tmp_path):
    broken = real_fake_root / "real" / "00.png"
    broken.write_bytes(broken.read_bytes()[:500])
    common = {"root": str(real_fake_root), "image_size": 32, "num_workers": 0}
    data = ready(RealFakeDataModule(**common, cache_dir=str(tmp_path / "cache")))
    assert "real/00.png" not in set(data.manifest["path"])
    assert "real/00.png" in (tmp_path / "cache" / "corrupt_files.csv").read_text()
    with pytest.raises(ManifestError, match=r"real/00\.png"):
        ready(RealFakeDataModule(**common, on_corrupt="raise"))


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match=r"data.crop_size=16 is smaller than data.image_size=32"):
        RealFakeDataModule(image_size=32, crop_size=16)
    with pytest.raises(ValueError, match=r"data.reencode_reals needs one quality"):
        RealFakeDataModule(reencode_reals=True)
    with pytest.raises(ValueError, match=r"data.common_size=100 is smaller"):
        RealFakeDataModule(image_size=128, common_size=100)


def test_plot_draws_every_image(real_fake_root):
    data = ready(RealFakeDataModule(root=str(real_fake_root), image_size=32, batch_size=6, num_workers=0))
    figure = data.plot(next(iter(data.train_dataloader())), columns=4)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert len(titles) == 6
    assert set(titles) <= {"real", "fake"}


# --- GenImage ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["with_imagenet_level", "without"])
def genimage_root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Both known layouts: two generators with 10 training and 4 val images per class."""
    rng = np.random.default_rng(0)
    middle = ["imagenet_x"] if request.param == "with_imagenet_level" else []
    for generator in ("ADM", "BigGAN"):
        for mode, count in (("train", 10), ("val", 4)):
            for label, suffix in (("nature", "JPEG"), ("ai", "png")):
                folder = tmp_path.joinpath("g", generator, *middle, mode, label)
                for index in range(count):
                    options = {"quality": 96} if label == "nature" else {}
                    write_image(folder / f"{index}.{suffix}", noise(rng, 40, 44), **options)
    return tmp_path / "g"


def test_genimage_tests_on_the_published_val_folders(genimage_root):
    data = GenImageDataModule(
        str(genimage_root), train_generators=["ADM"], image_size=32, num_workers=0, val_fraction=0.2
    )
    ready(data)
    assert {path.split("/")[0] for path in data.train_set.paths} == {"ADM"}
    assert all("train" in path.split("/") for path in data.train_set.paths + data.val_set.paths)
    assert len(data.train_set) == 16
    assert len(data.val_set) == 4
    data.setup("test")
    assert list(data.test_sets) == ["ADM", "BigGAN"]
    for name, dataset in data.test_sets.items():
        assert len(dataset) == 8
        assert all(path.startswith(name) and "val" in path.split("/") for path in dataset.paths)


def test_constrained_selection_takes_reals_of_all_folders_and_aligns_fakes(genimage_root):
    rows = [
        (path, "nature" if "nature" in path else path.split("/")[0], 0, "train" if "/train/" in path else "val")
        for path in list_images(genimage_root)
    ]
    pd.DataFrame(rows, columns=["path", "generator", "class", "mode"]).to_csv(
        genimage_root / "metadata.csv", index=False
    )
    data = GenImageDataModule(
        str(genimage_root),
        train_generators=["ADM"],
        selection="constrained",
        size_window=(40, 44),
        image_size=32,
        num_workers=0,
        val_fraction=0.2,
        test_fake_qualities=(None, 96),
    )
    ready(data)
    reals = {
        path.split("/")[0] for path, label in zip(data.train_set.paths, data.train_set.labels, strict=True) if not label
    }
    assert reals == {"ADM", "BigGAN"}
    assert data.train_set.preparation.quality == data.val_set.preparation.quality == 96
    assert (data.train_set.labels == 0).sum() == (data.train_set.labels == 1).sum()
    data.setup("test")
    assert list(data.test_sets) == ["ADM", "ADM@jpeg96", "BigGAN", "BigGAN@jpeg96"]
    assert data.test_sets["ADM"].preparation.quality is None  # the published matrices are on unmodified files


def test_a_folder_above_the_generators_does_not_change_their_names(genimage_root):
    above = GenImageDataModule(str(genimage_root.parent), image_size=32, num_workers=0)
    assert set(above.build_manifest()["subset"]) == {"ADM", "BigGAN"}


def test_genimage_mistakes(genimage_root, tmp_path):
    with pytest.raises(ManifestError, match=r"does not exist; pass --data.root"):
        ready(GenImageDataModule(str(tmp_path / "gone")))
    with pytest.raises(ManifestError, match="one generator's folder, pass its parent"):
        ready(GenImageDataModule(str(next((genimage_root / "ADM").rglob("train")))))
    with pytest.raises(ManifestError, match=r"has no \['Midjourney'\]; it has \['ADM', 'BigGAN'\]"):
        ready(GenImageDataModule(str(genimage_root), train_generators=["Midjourney"]))
    (tmp_path / "bad.csv").write_text("path,generator\nx,y\n")
    with pytest.raises(ManifestError, match=r"lacks the columns \['class', 'mode'\]"):
        ready(GenImageDataModule(str(genimage_root), metadata=str(tmp_path / "bad.csv")))


def test_procedural_world_runs_the_whole_pipeline(tmp_path):
    data = ProceduralGenImageDataModule(
        str(tmp_path / "world"), train=8, val=3, generators=["nearest", "sinc"], image_size=32, num_workers=0
    )
    ready(data)
    assert (tmp_path / "world" / "metadata.csv").is_file()
    data.setup("test")
    assert list(data.test_sets) == ["nearest", "sinc"]
    formats = data.manifest.groupby("label")["format"].unique().map(list).to_dict()
    assert formats == {0: ["JPEG"], 1: ["PNG"]}


def test_training_on_the_device_codec_equals_training_on_pillows(cli, detector_arguments):
    arguments = [*detector_arguments, "--data.fake_quality=60", "--trainer.max_epochs=1"]
    states = [
        cli("fit", *arguments, f"--data.codec={codec}", f"--experiment={codec}").model.state_dict()
        for codec in ("device", "pillow")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
