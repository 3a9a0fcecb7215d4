"""Episodes: who is in them, what is held out, what is true, and that seeds decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_image
from PIL import Image

from datamodules import FaceAttributesDataModule, FewShotAttributeDataModule, ProceduralFewShotDataModule
from datamodules.base import as_float
from datamodules.manifest import ManifestError
from datamodules.synthetic.face_parameters import HAIR_COLOURS, HELD_OUT_HAIR_COLOURS
from functional.recolouring import mean_colour, nearest_colour

NAMES = list(HAIR_COLOURS)
SMALL = {"shots": 4, "sources": 6, "queries": 5, "train_tasks": 20, "test_draws": 2, "num_workers": 0, "batch_size": 1}
HAIR = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"]


def procedural(**options):
    data = ProceduralFewShotDataModule(train=200, **{**SMALL, **options})
    data.setup("fit")
    return data


def hair_seen(data, pool, images, rows):
    hair = pool.hair(rows, images)
    return nearest_colour(mean_colour(as_float(images), hair * (hair > 0.5)), data.palette)


def test_training_tasks_never_show_held_out_colours():
    data = procedural()
    held_out = {NAMES.index(name) for name in HELD_OUT_HAIR_COLOURS}
    targets = set()
    for index in range(20):
        episode = data.train_set[(index, 100 + index)]
        assert episode["support_image"].shape == (4, 3, 16, 16)
        assert episode["source_image"].shape == (6, 3, 16, 16)
        assert episode["target"] not in held_out
        own = [slot for slot, name in enumerate(data.known) if name == episode["target"]]
        assert not set(episode["source_slot"].tolist()) & set(own)
        assert 0 <= episode["source_slot"].min() <= episode["source_slot"].max() < 8
        targets.add(episode["target"])
    assert len(targets) > 3
    assert not set(data.train_set.pool.classes.tolist()) & held_out


def test_an_episode_is_a_function_of_its_seed():
    data, other = procedural(), procedural(seed=1)
    one, again, later = data.train_set[(0, 7)], data.train_set[(0, 7)], data.train_set[(0, 8)]
    assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(again[key])) for key in one)
    assert not torch.equal(one["source_image"], later["source_image"])
    assert not torch.equal(one["source_image"], other.train_set[(0, 7)]["source_image"])


def test_held_out_tasks_take_turns_and_bring_the_truth():
    data = procedural()
    assert len(data.val_set) == 8
    seen = []
    for index in range(4):
        episode = data.val_set[(index, index)]
        seen.append(episode["target"])
        x, hair, truth = (episode[f"query_{name}"] for name in ("image", "hair", "truth"))
        inside = hair * (hair > 0.5)
        assert (nearest_colour(mean_colour(truth, inside), data.palette) == episode["target"]).all()
        assert (nearest_colour(mean_colour(as_float(x), inside), data.palette) != episode["target"]).all()
    assert [NAMES[target] for target in seen] == list(HELD_OUT_HAIR_COLOURS)
    one, other = data.val_set[(0, 0)], data.val_set[(4, 4)]
    assert one["target"] == other["target"]
    assert not torch.equal(one["support_image"], other["support_image"])
    assert torch.equal(one["query_image"], other["query_image"])


def test_recoloured_tasks_keep_away_from_held_out_colours():
    data = procedural(recoloured=1.0)
    held_out = {NAMES.index(name) for name in HELD_OUT_HAIR_COLOURS}
    rng = np.random.default_rng(0)
    means = []
    for _ in range(30):
        rows = rng.integers(len(data.train_set.pool.classes), size=4)
        images = as_float(data.train_set.pool.load(rows))
        painted = as_float(data.train_set._recoloured(rows, images, rng))
        mean = mean_colour(painted, data.train_set.pool.hair(rows, images)).mean(0, keepdim=True)
        assert int(nearest_colour(mean, data.palette)) not in held_out
        means.append(mean)
    assert torch.cat(means).std(0).min() > 0.1
    assert data.train_set[(0, 0)]["target"] == -1


def write_celeba(root, count=60):
    rng = np.random.default_rng(0)
    names = [f"{index:06d}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        pixels = rng.integers(0, 60, (218, 178, 3), np.uint8) + np.uint8(40 * (index % 5))
        write_image(root / "img_align_celeba" / name, pixels)
    values = {name: 2 * (np.arange(count) % 5 == index) - 1 for index, name in enumerate(HAIR)}  # a fifth has none
    values["Gray_Hair"][1] = 1  # and one has two
    pd.DataFrame(values, index=pd.Index(names, name="image_id")).to_csv(root / "list_attr_celeba.csv")


def test_photographs_leave_one_class_out(tmp_path):
    write_celeba(tmp_path)
    data = FewShotAttributeDataModule(str(tmp_path), image_size=16, recoloured=0.5, **{**SMALL, "shots": 2})
    data.setup("fit")
    data.setup("test")
    for index in range(6):
        episode = data.train_set[(index, index)]
        assert episode["target"] in (-1, 0, 1, 2)
        level = as_float(episode["source_image"]).mean((1, 2, 3)) * 255 - 29.5
        assert ((level / 40).round().long() == episode["source_slot"]).all()  # images are as bright as their class
    held_out = data.val_set[(0, 0)]
    assert held_out["target"] == 3
    assert ((as_float(held_out["support_image"]).mean((1, 2, 3)) * 255 - 29.5) / 40 - 3).abs().max() < 0.3
    assert (as_float(held_out["query_image"]).mean((1, 2, 3)) * 255 < 130).all()
    assert held_out["query_hair"][0, 0, 8, 8] < 0.2 < 0.8 < held_out["query_hair"][0, 0, 0, 0]
    names = [set(pool.names) for pool in (data.train_set.pool, data.val_set.query_pool)]
    assert not names[0] & names[1]
    assert "000001.jpg" not in {name.rpartition("/")[2] for name in names[0] | names[1]}


def test_predict_reads_two_folders(tmp_path):
    for folder, count in (("shots", 3), ("faces", 5)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            Image.new("RGB", (50, 30), (10 * index, 0, 0)).save(tmp_path / folder / f"{index}.png")
    folders = {"shots_root": str(tmp_path / "shots"), "predict_root": str(tmp_path / "faces")}
    data = FewShotAttributeDataModule(image_size=8, **SMALL, **folders)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    batch = data.on_after_batch_transfer(batch, 0)
    assert batch["image"].shape == (1, 3, 8, 8)
    assert batch["support_image"].shape == (3, 3, 8, 8)
    assert batch["source_image"].shape == (5, 3, 8, 8)
    assert batch["support_image"][2, 0].mean().item() == pytest.approx(20 / 255, abs=1e-4)


@pytest.mark.parametrize("kind", [FewShotAttributeDataModule, FaceAttributesDataModule])
def test_damaged_images_of_predict_are_skipped_and_named_or_refused(tmp_path, kind, caplog):
    (tmp_path / "below").mkdir()
    Image.new("RGB", (178, 218)).save(tmp_path / "a.png")
    Image.new("L", (178, 218)).save(tmp_path / "below/a.tif")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    options = {"image_size": 8, "predict_root": str(tmp_path), "num_workers": 0}
    if kind is FewShotAttributeDataModule:
        options["shots_root"] = str(tmp_path)
    else:
        options |= {"root": str(tmp_path), "attributes": ["Smiling"], "regions": ["mouth"]}
    data = kind(**options)
    with caplog.at_level("WARNING"):
        data.setup("predict")
    found = [Path(data.predict_set[index]["path"]).relative_to(tmp_path).as_posix() for index in range(2)]
    assert (found, len(data.predict_set)) == (["a.png", "below/a.tif"], 2)
    assert "1 of 3 files cannot be used" in caplog.text
    assert "cut.png: " in caplog.text
    refusing = kind(**options, on_corrupt="raise")
    with pytest.raises(ManifestError, match=r"(?s)cut\.png.*--data\.on_corrupt skip"):
        refusing.setup("predict")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FewShotAttributeDataModule, {"crop_first": 0}, r"data\.crop_first=0 must be at least 1"),
        (FewShotAttributeDataModule, {"classes": ["A", "B", "C", "C"]}, "none named twice"),
        (ProceduralFewShotDataModule, {"held_out": ["mauve"]}, r"data\.held_out=\['mauve'\]"),
        (ProceduralFewShotDataModule, {"shots": 0}, r"data\.shots=0"),
        (ProceduralFewShotDataModule, {"recoloured": 1.5}, r"recoloured=1\.5"),
        (FewShotAttributeDataModule, {"held_out": "Red_Hair"}, "held_out='Red_Hair' must be one of"),
    ],
)
def test_mistakes_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_missing_things_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.shots_root, a few images"):
        FewShotAttributeDataModule(image_size=8).setup("predict")
    with pytest.raises(ValueError, match=r"data\.root is not given"):
        FewShotAttributeDataModule(image_size=8).setup("fit")
    data = FewShotAttributeDataModule(image_size=8, shots_root=str(tmp_path), predict_root=str(tmp_path))
    with pytest.raises(ManifestError, match=r"data\.shots_root=.* holds no images"):
        data.setup("predict")
    data.shots_root = str(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"data\.shots_root=.*nowhere: there is no such folder"):
        data.setup("predict")
    write_celeba(tmp_path)
    with pytest.raises(ValueError, match=r"data\.shots=40: \w+_Hair has only"):
        FewShotAttributeDataModule(str(tmp_path), image_size=8, shots=40).setup("fit")
