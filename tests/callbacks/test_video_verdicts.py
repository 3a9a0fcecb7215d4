"""Verdicts on videos: votes and means in closed form, and through the command line."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import noise, write_image
from lightning.pytorch import LightningModule

from callbacks.video_verdicts import VideoVerdicts, judge_videos


def test_majority_and_mean_may_differ():
    frames = pd.DataFrame(
        {
            "path": ["a/0", "a/1", "a/2", "b/0", "b/1", "b/1"],
            "score": [0.1, 0.2, -5.0, 1.0, -0.5, -0.5],
            "label": [1, 1, 1, 0, 0, 0],
        }
    )
    videos = judge_videos(frames).set_index("video")
    assert videos.loc["a", ["frames", "majority", "mean_verdict"]].tolist() == [3, 1, 0]
    assert videos.loc["a", "mean_score"] == pytest.approx(-4.7 / 3)
    assert videos.loc["b", ["frames", "majority", "mean_verdict"]].tolist() == [2, 0, 1]  # one of two is no majority
    assert videos.loc["b", "fake_share"] == 0.5


def test_test_and_predict_write_a_row_per_video(cli, tmp_path):
    rng = np.random.default_rng(0)
    for label, strength in (("real", 60), ("fake", 15)):
        for video in range(10):
            for frame in range(3):
                write_image(tmp_path / "videos" / label / str(video) / f"{frame}.png", noise(rng, 36, 36, strength))
    common = ["--model=SpectrumDetector", "--model.head=svm_linear", "--data=VideoSpectraDataModule"]
    common += [f"--data.root={tmp_path / 'videos'}", "--data.num_workers=0", "--data.spectrum.features=12"]
    common += ["--experiment=videos", "--trainer.enable_progress_bar=false", "--trainer.callbacks+=VideoVerdicts"]
    cli("fit", *common, "--trainer.max_epochs=1")
    tested = cli("test", *common)
    assert float(tested.trainer.callback_metrics["test/video_accuracy_majority"]) == 1
    assert float(tested.trainer.callback_metrics["test/video_accuracy_mean"]) == 1
    (file,) = tmp_path.glob("runs/videos/*-test/video_verdicts.csv")
    videos = pd.read_csv(file)
    assert (videos["frames"] == 3).all()
    assert (videos["majority"] == videos["label"]).all()
    for video in ("real/0", "fake/0"):
        shutil.copytree(tmp_path / "videos" / video, tmp_path / "new" / video)
    cli("predict", *common, f"--data.predict_root={tmp_path / 'new'}")
    (file,) = tmp_path.glob("runs/videos/*-predict/video_verdicts.csv")
    videos = pd.read_csv(file)
    assert len(videos) == 2
    assert (videos["majority"] == videos["video"].str.startswith("fake")).all()


def test_modules_without_scores_are_refused():
    with pytest.raises(TypeError, match=r"LightningModule\.score"):
        VideoVerdicts().setup(None, LightningModule(), "test")
