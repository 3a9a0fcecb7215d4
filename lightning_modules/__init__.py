"""Training methods, one file per method."""

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.image_detector import ImageDetector
from lightning_modules.schedules import WarmupCosine
from lightning_modules.spectrum_detector import SpectrumDetector

__all__ = [
    "ImageClassifier",
    "ImageDetector",
    "SpectrumDetector",
    "WarmupCosine",
]
