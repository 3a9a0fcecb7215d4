"""Data, one file per family. See :mod:`datamodules.base` for the batch contract."""

from datamodules.base import ImageDataModule
from datamodules.gen_image import GenImageDataModule
from datamodules.manifest import ManifestError
from datamodules.procedural_genimage import ProceduralGenImageDataModule
from datamodules.real_fake import RealFakeDataModule
from datamodules.selections import BalanceClasses, BalanceLabels, RealQuality, RealSize, SelectionError

__all__ = [
    "BalanceClasses",
    "BalanceLabels",
    "GenImageDataModule",
    "ImageDataModule",
    "ManifestError",
    "ProceduralGenImageDataModule",
    "RealFakeDataModule",
    "RealQuality",
    "RealSize",
    "SelectionError",
]
