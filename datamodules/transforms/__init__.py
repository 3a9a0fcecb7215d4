"""On-device image pipelines built from kornia."""

from datamodules.transforms.codec_windows import compress_windows
from datamodules.transforms.exact_jpeg import ExactJPEG
from datamodules.transforms.pipelines import Augmentation, eval_pipeline, train_pipeline, view_pipeline

__all__ = ["Augmentation", "ExactJPEG", "compress_windows", "eval_pipeline", "train_pipeline", "view_pipeline"]
