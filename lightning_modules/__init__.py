"""Training methods, one file per method."""

from lightning_modules.adversarial_detector import AdversarialDetector
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.image_detector import ImageDetector
from lightning_modules.schedules import WarmupCosine, WarmupMultiStep
from lightning_modules.spectrum_detector import SpectrumDetector
from lightning_modules.triplet_embedding import TripletEmbedding

__all__ = [
    "AdversarialDetector",
    "ImageClassifier",
    "ImageDetector",
    "SpectrumDetector",
    "TripletEmbedding",
    "WarmupCosine",
    "WarmupMultiStep",
]
