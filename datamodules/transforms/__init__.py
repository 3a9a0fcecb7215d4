"""On-device image pipelines built from kornia."""

from datamodules.transforms.exact_jpeg import ExactJPEG
from datamodules.transforms.pipelines import Augmentation, eval_pipeline, train_pipeline, view_pipeline

__all__ = ["Augmentation", "ExactJPEG", "eval_pipeline", "train_pipeline", "view_pipeline"]
