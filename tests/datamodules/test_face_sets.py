"""Face data sets in their published layouts, on generated trees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, write_image
from test_video_frames import write_video

from datamodules import (
    CelebARealFakeDataModule,
    FaceForensicsDataModule,
    FacesHQDataModule,
    ManifestError,
)
from datamodules.spectrum_dataset import from_bits
from functional.spectrum import spectrum_length


def ready(data):
    data.prepare_data()
    data.setup("fit")
    return data


def test_faces_hq_knows_its_folders(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("celebA-HQ_10K", "Flickr-Faces-HQ_10K", "thispersondoesntexists_10K", "100KFaces_10K", "notes"):
        for index in range(12):
            write_image(tmp_path / folder / f"{index}.jpg", noise(rng, 48, 48))
    data = ready(FacesHQDataModule(str(tmp_path), num_workers=0))
    table = data.manifest
    assert set(table.loc[table["label"] == 1, "generator"]) == {"thispersondoesntexists_10K", "100KFaces_10K"}
    assert (table["label"] == 0).sum() == 24
    assert not table["path"].str.startswith("notes").any()
    sample = from_bits(data.train_set[0]["spectrum"])
    assert len(sample) == spectrum_length(48, 48)  # whole rings
    assert float(sample[0]) != 1  # not divided
    data.setup("test")
    assert set(data.test_sets) == {"thispersondoesntexists_10K", "100KFaces_10K"}


def test_faces_hq_with_other_names(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        for index in range(12):
            write_image(tmp_path / folder / f"{index}.jpg", noise(rng, 40, 40))
    with pytest.raises(ManifestError, match=r"holds \['a', 'b'\]; Faces-HQ has"):
        ready(FacesHQDataModule(str(tmp_path)))
    data = ready(FacesHQDataModule(str(tmp_path), real_folders=["a"], fake_folders=["b"], num_workers=0))
    assert set(data.manifest["generator"]) == {"real", "b"}


def test_celeba_keeps_80_features_of_two_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(12):
        write_image(tmp_path / "img_align_celeba" / f"{index:06d}.jpg", noise(rng, 54, 44))
        write_image(tmp_path / "dataset_celebA" / f"{index}.jpg", noise(rng, 32, 32))
    data = ready(CelebARealFakeDataModule(str(tmp_path), num_workers=0))
    spectra = [from_bits(data.train_set[index]["spectrum"]) for index in range(len(data.train_set))]
    assert {len(spectrum) for spectrum in spectra} == {80}
    assert {float(spectrum[0]) for spectrum in spectra} == {1.0}
    assert set(data.manifest["label"]) == {0, 1}


@pytest.fixture
def faceforensics(tmp_path) -> Path:
    """Eight pairs of youtube's videos with two manipulations, four actors, frames of two compressions."""
    root, rng = tmp_path / "ff", np.random.default_rng(0)

    def write(*parts: str) -> None:
        for frame in range(2):
            write_image(root.joinpath(*parts, f"{frame:04d}.png"), noise(rng, 36, 36))

    for pair in range(8):
        one, two = f"{2 * pair:03d}", f"{2 * pair + 1:03d}"
        for number in (one, two):
            write("original_sequences", "youtube", "c23", "images", number)
        for method in ("Deepfakes", "Face2Face"):
            write("manipulated_sequences", method, "c23", "images", f"{one}_{two}")
            write("manipulated_sequences", method, "c23", "images", f"{two}_{one}")
    for actor in range(1, 7):
        write("original_sequences", "actors", "c23", "images", f"{actor:02d}__walking")
        other = actor % 6 + 1
        video = f"{actor:02d}_{other:02d}__walking__ABCDEF"
        write("manipulated_sequences", "DeepFakeDetection", "c23", "images", video)
    write("original_sequences", "youtube", "c40", "images", "000")
    return root


def test_faceforensics_keeps_pairs_and_actors_together(faceforensics):
    data = ready(FaceForensicsDataModule(str(faceforensics), num_workers=0, val_fraction=0.2))
    table = data.manifest
    assert set(table["generator"]) == {"real", "Deepfakes", "Face2Face", "DeepFakeDetection"}
    assert not table["path"].str.contains("/c40/").any()
    assert table.groupby("group")["split"].nunique().max() == 1
    group = table.drop_duplicates("group")["group"]
    assert len(group) == 8 + 6
    pair = table[table["path"].str.contains(r"/00[01](?:_|/)")]
    assert set(pair["group"]) == {"youtube 000"}
    assert len(pair) == 2 * (2 + 4)
    actor = table[table["path"].str.contains(r"/01_")]
    assert set(actor["group"]) == {"actor 01"}


def test_faceforensics_by_method_brings_the_right_reals(faceforensics):
    table = ready(FaceForensicsDataModule(str(faceforensics), methods=["DeepFakeDetection"], num_workers=0)).manifest
    assert table.loc[table["label"] == 0, "path"].str.contains("/actors/").all()
    table = ready(FaceForensicsDataModule(str(faceforensics), methods=["Deepfakes"], num_workers=0)).manifest
    assert table.loc[table["label"] == 0, "path"].str.contains("/youtube/").all()
    with pytest.raises(ManifestError, match=r"no frames of \['FaceShifter'\].*there are \['DeepFakeDetection'"):
        FaceForensicsDataModule(str(faceforensics), methods=["FaceShifter"]).build_manifest()
    with pytest.raises(ManifestError, match="no frames of any sequence"):
        FaceForensicsDataModule(str(faceforensics), compression="raw").build_manifest()


def test_published_splits_are_followed(faceforensics):
    pairs = [[f"{2 * pair:03d}", f"{2 * pair + 1:03d}"] for pair in range(8)]
    for name, part in (("train", pairs[:4]), ("val", pairs[4:6]), ("test", pairs[6:])):
        (faceforensics / f"{name}.json").write_text(json.dumps(part))
    data = ready(FaceForensicsDataModule(str(faceforensics), methods=["Deepfakes"], num_workers=0))
    numbers = data.manifest["path"].str.extract(r"/(\d{3})(?:_\d{3})?/\d{4}")[0].astype(int)
    expected = np.select([numbers < 8, numbers < 12], ["train", "val"], "test")
    assert (data.manifest["split"] == expected).all()


def test_faceforensics_videos_are_extracted_by_compression_and_method(tmp_path):
    root = tmp_path / "ff"
    for number in range(8):
        levels = [3 * number, 3 * number + 1, 3 * number + 2]  # equal frames would tie videos together
        write_video(root / f"original_sequences/youtube/c23/videos/{number:03d}.avi", levels, 32)
        name = f"{number:03d}_{number ^ 1:03d}"
        write_video(
            root / f"manipulated_sequences/Deepfakes/c23/videos/{name}.avi", [100 + level for level in levels], 32
        )
    write_video(root / "manipulated_sequences/FaceSwap/c23/videos/000_001.avi", [1], 32)
    write_video(root / "original_sequences/youtube/c40/videos/000.avi", [1], 32)
    data = FaceForensicsDataModule(str(root), methods=["Deepfakes"], frames_per_video=2, val_fraction=0.3)
    table = ready(data).manifest
    assert len(table) == 2 * 16
    assert set(table["group"]) == {f"youtube {number:03d}" for number in (0, 2, 4, 6)}
    extracted = {path.parent.name for path in data.root.rglob("*.png")}
    assert len(extracted) == 16
    assert not list(data.root.rglob("FaceSwap"))
