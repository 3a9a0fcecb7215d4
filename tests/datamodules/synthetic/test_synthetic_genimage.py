"""The procedural GenImage on disk: layout, metadata, codecs, seeds, and no half-written world."""

import csv
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datamodules.synthetic import GENERATORS, genimage, write_procedural_genimage

SMALL = {"train": {"nearest": 6}, "val": 5, "generators": ("nearest", "sinc"), "progress": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_procedural_genimage(tmp_path_factory.mktemp("w") / "genimage", workers=0, **SMALL)


@pytest.fixture(scope="module")
def rows(world):
    with (world / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("workers", [1, 2])
def test_same_arguments_give_identical_bytes_with_any_number_of_workers(world, tmp_path, workers):
    again = write_procedural_genimage(tmp_path / "again", workers=workers, **SMALL)
    assert digests(again) == digests(world)


def test_another_seed_changes_every_image(world, tmp_path):
    other = digests(write_procedural_genimage(tmp_path / "other", seed=1, workers=0, **SMALL))
    images = [path for path in digests(world) if path.endswith(("png", "JPEG"))]
    assert all(other[path] != digest for path, digest in digests(world).items() if path in images)


def test_adding_a_generator_leaves_the_others_files_unchanged(world, tmp_path):
    more = write_procedural_genimage(
        tmp_path / "more", workers=0, **{**SMALL, "generators": ("bilinear", "sinc", "nearest")}
    )
    ours = {path: digest for path, digest in digests(world).items() if path.endswith(("png", "JPEG"))}
    assert ours.items() <= digests(more).items()


def test_layout_is_that_of_genimage(world):
    expected = {"nearest": {"train": 6, "val": 5}, "sinc": {"train": 0, "val": 5}}
    assert sorted(path.name for path in world.iterdir()) == ["metadata.csv", "nearest", "sinc", "world.json"]
    for generator, modes in expected.items():
        for mode, count in modes.items():
            for label, pattern in (("ai", "*.png"), ("nature", "*.JPEG")):
                folder = world / generator / f"imagenet_{generator}" / mode / label
                assert len(list(folder.iterdir())) == len(list(folder.glob(pattern))) == count
    assert (world / "nearest/imagenet_nearest/train/ai/003_ai_000003.png").is_file()
    assert (world / "nearest/imagenet_nearest/train/nature/n003_000003.JPEG").is_file()


def test_metadata_matches_the_files(world, rows):
    assert list(rows[0]) == ["path", "generator", "class", "mode", "width", "height", "compression_rate"]
    files = {path.relative_to(world).as_posix() for path in world.rglob("*") if path.suffix in (".png", ".JPEG")}
    assert {row["path"] for row in rows} == files
    assert len(rows) == len(files) == 2 * (6 + 5 + 5)
    for row in rows:
        folder, _, mode, label, name = row["path"].split("/")
        with Image.open(world / row["path"]) as image:
            assert (image.width, image.height) == (int(row["width"]), int(row["height"]))
        assert row["mode"] == mode
        assert row["generator"] == (folder if label == "ai" else "nature")
        assert row["compression_rate"] == ("" if label == "ai" else "96")
        assert int(row["class"]) == int(name.lstrip("n")[:3])


def test_natures_are_quality_96_jpegs_of_several_sizes_and_fakes_pngs_of_one(world, rows):
    # The tables of the IJG formula at quality 96 begin 1, 1, 1, 1 (luma 16, 11, 12, 14 at 8 %) and 1, 1, 2, 4 (chroma).
    scale = lambda entry: max(1, (entry * 8 + 50) // 100)  # noqa: E731
    sizes = {"nearest": set(), "sinc": set(), "nature": set()}
    for row in rows:
        with Image.open(world / row["path"]) as image:
            sizes[row["generator"]].add(image.size)
            assert image.mode == "RGB"
            if row["generator"] == "nature":
                assert image.format == "JPEG"
                assert image.layer[0][1:3] == (2, 2)  # luma sampled twice as densely as chroma: 4:2:0
                assert image.layer[1][1:3] == (1, 1)
                assert image.quantization[0][0] == scale(16)
                assert max(image.quantization[0]) == scale(121)
                assert max(image.quantization[1]) == scale(99)
            else:
                assert image.format == "PNG"
    assert sizes["nearest"] == {(128, 128)}
    assert sizes["sinc"] == {(256, 256)}
    assert len(sizes["nature"]) > 10


def test_most_natures_fall_into_their_generators_window():
    for generator in GENERATORS.values():
        low, high = generator.size_window
        drawn = np.array([genimage._nature_size(generator, np.random.default_rng(seed)) for seed in range(400)])
        inside = ((drawn >= low) & (drawn <= high)).all(axis=1).mean()
        assert 0.6 <= inside <= 0.85
        assert drawn.min() >= min(low, 130) - 1
        assert drawn.max() <= 300


def test_no_two_images_show_the_same_scene(world, rows):
    thumbnails = []
    for row in rows:
        with Image.open(world / row["path"]) as image:
            thumbnails.append(np.asarray(image.resize((8, 8)), dtype=float).ravel())
    distance = np.abs(np.stack(thumbnails)[:, None] - np.stack(thumbnails)[None]).mean(-1)
    assert distance[~np.eye(len(rows), dtype=bool)].min() > 3.0


def test_finished_world_is_reused(world, monkeypatch):
    monkeypatch.setattr(genimage, "_write_image", lambda job: pytest.fail("drew an image again"))
    before = digests(world)
    assert write_procedural_genimage(str(world), workers=0, **SMALL) == world
    assert digests(world) == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"val": 4}, {"train": 6}, {"generators": ("nearest",)}])
def test_other_parameters_are_refused_with_folder_and_mend(world, change):
    with pytest.raises(ValueError, match=r"(?s)genimage.*other parameters.*another root, or delete"):
        write_procedural_genimage(world, workers=0, **{**SMALL, **change})


def test_a_recipe_that_changed_since_is_refused(world, monkeypatch):
    monkeypatch.setattr(genimage, "_WORLD_VERSION", 0)
    with pytest.raises(ValueError, match="version"):
        write_procedural_genimage(world, workers=0, **SMALL)


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="no finished procedural GenImage"):
        write_procedural_genimage(tmp_path, workers=0, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_empty_folder_is_filled(tmp_path):
    root = tmp_path / "empty"
    root.mkdir()
    write_procedural_genimage(root, train=0, val=1, generators=("nearest",), workers=0, progress=False)
    assert (root / "metadata.csv").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error):
    write = genimage._write_image

    def interrupted(job):
        if job.index == 3:
            raise error
        return write(job)

    monkeypatch.setattr(genimage, "_write_image", interrupted)
    with pytest.raises(error):
        write_procedural_genimage(tmp_path / "world", workers=0, **SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    root = write_procedural_genimage(tmp_path / "world", workers=0, **SMALL)
    assert json.loads((root / "world.json").read_text())["val"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generators": ("nearest", "midjourney")}, "midjourney"),
        ({"generators": ()}, "at least one"),
        ({"generators": ("nearest", "nearest")}, "each once"),
        ({"generators": ("sinc",)}, "every generator that `train` names"),
        ({"val": -1}, "negative"),
    ],
)
def test_impossible_arguments_are_refused_before_writing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_procedural_genimage(tmp_path / "world", workers=0, **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_drawing_code_needs_no_torch():
    program = """
import importlib.machinery, pathlib, sys, types
package = types.ModuleType("datamodules")  # stands in for the package's own __init__, which imports Lightning
package.__path__ = [str(pathlib.Path(sys.argv[1]).parent)]
sys.modules["datamodules"] = package
import datamodules.synthetic
assert "torch" not in sys.modules
"""
    folder = str(__import__("pathlib").Path(genimage.__file__).parent)
    subprocess.run([sys.executable, "-c", program, folder], check=True)
