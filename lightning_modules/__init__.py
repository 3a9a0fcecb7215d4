"""Training methods, one file per method."""

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.image_detector import ImageDetector
from lightning_modules.schedules import WarmupCosine

__all__ = ["ImageClassifier", "ImageDetector", "WarmupCosine"]
