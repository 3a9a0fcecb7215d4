"""Videos: frame folders and files, splits by video and by person, messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import noise, write_image
from PIL import Image

from datamodules import ManifestError, VideoFramesDataModule, VideoSpectraDataModule
from datamodules.spectrum_dataset import from_bits
from datamodules.video_files import _evenly, extract_frames, list_videos
from functional.spectrum import RadialSpectrum, radial_log_spectrum


def write_frame_folders(root: Path, videos: int = 10, frames: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for label in ("real", "fake"):
        for video in range(videos):
            for frame in range(frames):
                name = f"{video // 2}_{video}" if label == "fake" else str(video)
                write_image(root / label / name / f"{frame:04d}.png", noise(rng, 36, 36))
    return root


def write_video(path: Path, levels: list[int], size: int = 64) -> Path:
    """Losslessly coded frames, each of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = size, size, "bgr0"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def splits_of(data) -> dict[str, set[str]]:
    data.prepare_data()
    data.setup("fit")
    table = data.manifest
    return {split: set(rows["group"]) for split, rows in table.groupby("split")}


def test_videos_are_not_divided(tmp_path):
    root = write_frame_folders(tmp_path / "videos")
    data = VideoFramesDataModule(str(root), image_size=32, num_workers=0)
    groups = splits_of(data)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 20
    assert data.manifest.groupby("group")["split"].nunique().max() == 1
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[1:] == (3, 32, 32)


def test_a_pattern_keeps_people_together(tmp_path):
    root = write_frame_folders(tmp_path / "videos")
    data = VideoFramesDataModule(str(root), group_pattern="/([0-9]+)(?:_|$)", image_size=32, val_fraction=0.3)
    groups = splits_of(data)
    assert set.union(*groups.values()) == {str(number) for number in range(10)}
    assert sum(map(len, groups.values())) == 10
    with pytest.raises(ManifestError, match=r"finds nothing in /fake/0_0"):
        VideoFramesDataModule(str(root), group_pattern="actor", image_size=32).build_manifest()


def test_spectra_of_the_central_third(tmp_path):
    root = write_frame_folders(tmp_path / "videos")
    settings = RadialSpectrum(features=6, central_third=True)
    data = VideoSpectraDataModule(str(root), spectrum=settings, num_workers=0)
    groups = splits_of(data)
    assert len(set.union(*groups.values())) == 20
    sample = data.train_set[0]
    grey = np.asarray(Image.open(root / sample["path"]).convert("L"))[12:24, 12:24]
    expected = radial_log_spectrum(torch.from_numpy(grey.astype(float)), 6)
    np.testing.assert_allclose(from_bits(sample["spectrum"]), expected)
    assert sample["group"] == sample["path"].rpartition("/")[0]


def test_frames_of_files_are_evenly_spaced_and_lossless(tmp_path):
    levels = list(range(10, 250, 12))  # 20 frames
    write_video(tmp_path / "in" / "real" / "a.mkv", levels)
    write_video(tmp_path / "in" / "real" / "short.mkv", levels[:2])
    extract_frames(tmp_path / "in", list_videos(tmp_path / "in"), tmp_path / "out", 4)
    files = sorted((tmp_path / "out/real/a.mkv").iterdir())
    assert [file.stem for file in files] == ["000002", "000007", "000012", "000017"]
    for file in files:
        assert (np.asarray(Image.open(file)) == levels[int(file.stem)]).all()
    assert len(list((tmp_path / "out/real/short.mkv").iterdir())) == 2
    assert not [path for path in (tmp_path / "out/real").iterdir() if path.name.startswith(".")]


def test_extraction_is_done_once_until_a_file_changes(tmp_path):
    video = write_video(tmp_path / "in" / "a.mkv", [10, 20])
    extract_frames(tmp_path / "in", ["a.mkv"], tmp_path / "out", 1)
    (frame,) = (tmp_path / "out/a.mkv").iterdir()
    written = frame.stat().st_mtime_ns
    extract_frames(tmp_path / "in", ["a.mkv"], tmp_path / "out", 1)
    assert frame.stat().st_mtime_ns == written
    write_video(video, [200, 210])
    os.utime(video, (written / 1e9 + 60, written / 1e9 + 60))
    extract_frames(tmp_path / "in", ["a.mkv"], tmp_path / "out", 1)
    assert np.asarray(Image.open(frame)).min() > 100


@pytest.mark.parametrize(("total", "count"), [(10, 3), (100, 32), (7, 7), (3, 8), (1, 1)])
def test_even_spacing(total, count):
    numbers = sorted(_evenly(total, count))
    assert len(numbers) == min(total, count)
    assert 0 <= numbers[0] <= numbers[-1] < total
    gaps = np.diff(numbers)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_video_files_go_all_the_way_to_batches_and_predictions(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("real", "fake"):
        for index in range(8):
            levels = rng.integers(0, 256, 5).tolist()
            write_video(tmp_path / "in" / label / f"{index}.mkv", levels, 32)
    data = VideoFramesDataModule(
        str(tmp_path / "in"), frames_per_video=2, predict_root=str(tmp_path / "in"), image_size=32, num_workers=0
    )
    groups = splits_of(data)
    assert len(set.union(*groups.values())) == 16
    assert len(data.manifest) == 32
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(predicting=True, loggers=[], default_root_dir=str(tmp_path), strategy=device)
    data.prepare_data()
    data.setup("predict")
    assert len(data.predict_set) == 32


def test_damaged_videos_and_a_missing_decoder_are_named(tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ManifestError, match=r"bad\.mp4: cannot be decoded"):
        extract_frames(tmp_path, ["bad.mp4"], tmp_path / "out", 2)
    assert not (tmp_path / "out/bad.mp4").exists()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ManifestError, match=r"pip install 'truelight\[video\]'"):
        extract_frames(tmp_path, ["bad.mp4"], tmp_path / "out", 2)
    with pytest.raises(ValueError, match=r"data\.frames_per_video=0"):
        VideoFramesDataModule(frames_per_video=0)
