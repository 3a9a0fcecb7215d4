"""One verdict for each video from those of its frames."""

from __future__ import annotations

from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.outputs import gather_objects, log_table
from callbacks.run_directory import run_directory

__all__ = ["VideoVerdicts", "judge_videos"]


class VideoVerdicts(Callback):
    """Judge videos by the majority of their frames (Durall et al. 2019) and by the frames' mean score.

    Frames in one folder are one video. ``test`` and ``predict`` write ``video_verdicts.csv``, a row per video; ``test``
    logs the shares of videos judged rightly, ``test/video_accuracy_majority`` and ``test/video_accuracy_mean``. A video
    that occurs in several test loaders counts once.

    It needs a module with ``predict_step`` that returns ``path`` and ``score``, above 0 for "fake".
    """

    def __init__(self) -> None:
        self._frames: list[pd.DataFrame] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module gives scores to files."""
        if not callable(getattr(pl_module, "score", None)):
            raise TypeError(f"VideoVerdicts needs {type(pl_module).__name__}.score, which it lacks.")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._frames = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._frames = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the frames' scores."""
        result: Any = pl_module.predict_step(batch, batch_idx)
        self._keep(result["path"], result["score"], batch["label"])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the frames' scores."""
        self._keep(outputs["path"], outputs["score"], batch["label"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table and log the accuracies."""
        videos = self._write(trainer)
        known = videos[videos["label"] >= 0]
        for column, name in (("majority", "majority"), ("mean_verdict", "mean")):
            share = float((known[column] == known["label"]).mean())
            pl_module.log(f"test/video_accuracy_{name}", share, rank_zero_only=False, sync_dist=True)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table."""
        self._write(trainer)

    def _keep(self, paths: list[str], scores: Tensor, labels: Tensor) -> None:
        columns = {"path": paths, "score": scores.double().cpu().numpy(), "label": labels.cpu().numpy()}
        self._frames.append(pd.DataFrame(columns))

    def _write(self, trainer: Trainer) -> pd.DataFrame:
        directory = run_directory(trainer)
        parts = gather_objects(trainer, self._frames)
        videos = judge_videos(pd.concat([frame for part in parts for frame in part], ignore_index=True))
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            written = log_table(trainer, directory, "video_verdicts", videos, index=False)
            rank_zero_info(f"{len(videos)} videos judged; table: {written}")
        return videos


def judge_videos(frames: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on videos from the scores of their frames.

    Args:
        frames: rows with ``path``, ``score`` (above 0 for "fake") and ``label`` (-1 where it is unknown); a path that
            occurs twice counts once.

    Returns:
        One row per folder: ``video``, ``label``, ``frames``, ``fake_share`` of the frames, ``mean_score``, ``majority``
        and ``mean_verdict`` (1 fake, 0 real; half of the frames are no majority).
    """
    frames = frames.drop_duplicates("path")
    frames = frames.assign(
        video=frames["path"].str.rpartition("/")[0].to_numpy(), is_fake=(frames["score"] > 0).astype(float)
    )
    videos = frames.groupby("video", sort=True).agg(
        label=("label", "first"), frames=("path", "size"), fake_share=("is_fake", "mean"), mean_score=("score", "mean")
    )
    videos["majority"] = (videos["fake_share"] > 0.5).astype("int64")
    videos["mean_verdict"] = (videos["mean_score"] > 0).astype("int64")
    return videos.reset_index()
