"""On-device image pipelines built from kornia."""

from datamodules.transforms.pipelines import Augmentation, eval_pipeline, train_pipeline, view_pipeline

__all__ = ["Augmentation", "eval_pipeline", "train_pipeline", "view_pipeline"]
