"""Data, one file per family. See :mod:`datamodules.base` for the batch contract."""

from datamodules.adversarial import AdversarialDataModule
from datamodules.base import ImageDataModule
from datamodules.cifar import Cifar10DataModule, Cifar100DataModule
from datamodules.clustering_data import Cifar10ClusteringDataModule, Cifar100ClusteringDataModule, DigitsDataModule
from datamodules.corrupted import CorruptedCifar10DataModule, CorruptedImageNetDataModule
from datamodules.face_attributes import FaceAttributesDataModule
from datamodules.face_sets import CelebARealFakeDataModule, FaceForensicsDataModule, FacesHQDataModule
from datamodules.few_shot_attributes import FewShotAttributeDataModule
from datamodules.gen_image import GenImageDataModule
from datamodules.manifest import ManifestError
from datamodules.mnist import MnistDataModule
from datamodules.procedural_faces import ProceduralFacesDataModule
from datamodules.procedural_few_shot import ProceduralFewShotDataModule
from datamodules.procedural_genimage import ProceduralGenImageDataModule
from datamodules.real_fake import RealFakeDataModule
from datamodules.selections import BalanceClasses, BalanceLabels, RealQuality, RealSize, SelectionError
from datamodules.spectrum_data import FeatureTableDataModule, SpectrumDataModule
from datamodules.stl10 import Stl10DataModule
from datamodules.upsampled_noise import UpsampledNoiseDataModule
from datamodules.video_frames import VideoFramesDataModule, VideoSpectraDataModule

__all__ = [
    "AdversarialDataModule",
    "BalanceClasses",
    "BalanceLabels",
    "CelebARealFakeDataModule",
    "Cifar10ClusteringDataModule",
    "Cifar10DataModule",
    "Cifar100ClusteringDataModule",
    "Cifar100DataModule",
    "CorruptedCifar10DataModule",
    "CorruptedImageNetDataModule",
    "DigitsDataModule",
    "FaceAttributesDataModule",
    "FaceForensicsDataModule",
    "FacesHQDataModule",
    "FeatureTableDataModule",
    "FewShotAttributeDataModule",
    "GenImageDataModule",
    "ImageDataModule",
    "ManifestError",
    "MnistDataModule",
    "ProceduralFacesDataModule",
    "ProceduralFewShotDataModule",
    "ProceduralGenImageDataModule",
    "RealFakeDataModule",
    "RealQuality",
    "RealSize",
    "SelectionError",
    "SpectrumDataModule",
    "Stl10DataModule",
    "UpsampledNoiseDataModule",
    "VideoFramesDataModule",
    "VideoSpectraDataModule",
]
