"""Training methods, one file per method."""

from lightning_modules.adversarial_detector import AdversarialDetector
from lightning_modules.attribute_classifier import AttributeClassifier
from lightning_modules.attribute_inpainting_gan import AttributeInpaintingGAN
from lightning_modules.autoencoder_embedding import AutoencoderEmbedding, PixelEmbedding
from lightning_modules.contrastive_embedding import ContrastiveEmbedding
from lightning_modules.few_shot_translation_gan import FewShotTranslationGAN
from lightning_modules.fidelity_inception import FidelityInception
from lightning_modules.gan import GANAdam
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.image_detector import ImageDetector
from lightning_modules.latent_conditioned_gan import LatentConditionedGAN
from lightning_modules.schedules import WarmupCosine, WarmupMultiStep
from lightning_modules.spectrum_detector import SpectrumDetector
from lightning_modules.triplet_embedding import TripletEmbedding

__all__ = [
    "AdversarialDetector",
    "AttributeClassifier",
    "AttributeInpaintingGAN",
    "AutoencoderEmbedding",
    "ContrastiveEmbedding",
    "FewShotTranslationGAN",
    "FidelityInception",
    "GANAdam",
    "ImageClassifier",
    "ImageDetector",
    "LatentConditionedGAN",
    "PixelEmbedding",
    "SpectrumDetector",
    "TripletEmbedding",
    "WarmupCosine",
    "WarmupMultiStep",
]
