"""Spectra in place of images: of any folder tree or CSV, and of tables made earlier."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.base import ImageDataModule, as_float
from datamodules.image_dataset import Preparation
from datamodules.manifest import ManifestError
from datamodules.real_fake import RealFakeDataModule
from datamodules.spectrum_dataset import SpectrumDataset, as_bits, from_bits
from datamodules.splits import assign_splits
from functional.spectrum import RadialSpectrum

__all__ = ["FeatureTableDataModule", "SpectraMixin", "SpectrumDataModule"]

logger = logging.getLogger("lightning.pytorch.datamodules")


class SpectraMixin(ImageDataModule):
    """Loaders of spectra: no training image is left out, and no pipeline runs on the device.

    A batch holds ``spectrum``, float64 ``(B, K)``, beside ``label``, ``path`` and ``generator``.
    """

    num_classes = 2

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches, the last incomplete one included."""
        return self.loader(self.train_set, shuffle=True)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turn bits into features; in float32 for devices that have no float64."""
        features = from_bits(batch["spectrum"])
        single = self.trainer is not None and self.trainer.strategy.root_device.type == "mps"
        return {**batch, "spectrum": features.float() if single else features}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Make floats of the pictures, where there are any."""
        return {**batch, "image": as_float(batch["image"])} if "image" in batch else batch


class SpectrumDataModule(SpectraMixin, RealFakeDataModule):
    """Spectra of real and generated images of any size and format, each taken at its own size by a worker.

    Folders, manifests, splits, selections and alignment are those of :class:`RealFakeDataModule`; nothing is resized
    unless ``common_size`` says so, and nothing is augmented. Of JPEG files, and of images that are re-encoded, the luma
    plane itself is taken, as published.

    Args:
        spectrum: the spectrum; the paper's 80 features by default.
        center_crop: side of the central square that is looked at, in pixels of the file; None takes whole images.
        thumbnail: side of the pictures on the contact sheet of ``predict``.
        kwargs: as for :class:`RealFakeDataModule`; ``cache_images`` keeps spectra, not images.
    """

    def __init__(
        self,
        spectrum: RadialSpectrum | None = None,
        center_crop: int | None = None,
        thumbnail: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=1, **kwargs)
        self.spectrum = spectrum or RadialSpectrum(features=80, relative=True)
        self.center_crop, self.thumbnail = center_crop, thumbnail

    def setup(self, stage: str) -> None:
        """Build the data sets; warn where sizes differ and the spectrum tells them apart.

        Raises:
            ManifestError: as for :class:`RealFakeDataModule`, and if sizes differ while no ``features`` are given.
        """
        super().setup(stage)
        if self.manifest is None or self.center_crop is not None or self.common_size is not None:
            return
        sizes = self.manifest.groupby("label")[["width", "height"]].value_counts().index
        by_label = [{tuple(size[1:]) for size in sizes if size[0] == label} for label in (0, 1)]
        if len(by_label[0] | by_label[1]) > 1 and self.spectrum.features is None and self.spectrum.axis == "rings":
            raise ManifestError(
                f"{self.root} holds images of different sizes, whose spectra have different lengths; set "
                "data.spectrum.features, e.g. to 80, or data.center_crop."
            )
        if by_label[0] != by_label[1] and stage == "fit":
            logger.warning(
                "Reals and fakes have different sizes: the spectrum gives the size away, and with it the label. Bring "
                "both to one size with data.common_size or data.center_crop before you believe a number."
            )

    def _dataset(self, rows: pd.DataFrame, preparation: Preparation, cached: bool = False) -> Dataset[Any]:  # type: ignore[override]
        return SpectrumDataset(rows, self.root, self.spectrum, preparation, self.center_crop, cached)

    def _predict_set(self) -> Dataset[Any]:  # type: ignore[override]
        images = super()._predict_set()
        rows = pd.DataFrame({"path": images.paths, "label": images.labels, "generator": ""})
        return SpectrumDataset(
            rows, images.root, self.spectrum, images.preparation, self.center_crop, thumbnail=self.thumbnail
        )


class FeatureTable(Dataset[dict[str, Any]]):
    """Rows of a feature table.

    Args:
        rows: with ``path``, ``label``, ``generator`` and ``group``.
        features: shape ``(N, K)``.
    """

    def __init__(self, rows: pd.DataFrame, features: torch.Tensor) -> None:
        self.features = features
        self.labels = rows["label"].to_numpy(np.int64)
        self.paths, self.generators = rows["path"].tolist(), rows["generator"].tolist()
        self.groups = rows["group"].tolist() if rows["group"].notna().all() else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One row."""
        index = draw[0] if isinstance(draw, tuple) else draw
        return {
            "spectrum": as_bits(self.features[index]),
            "label": int(self.labels[index]),
            "path": self.paths[index],
            "generator": self.generators[index],
            **({"group": self.groups[index]} if self.groups is not None else {}),
        }


class FeatureTableDataModule(SpectraMixin):
    """Features that were computed earlier, from an ``.npz`` file.

    The file holds ``features``, float ``(N, K)``, and ``is_fake``, bool ``(N,)``, or ``label``, 0 real and 1 fake; and
    optionally ``group``, what belongs together (the video of a frame), and ``path``, both text ``(N,)``. It is read
    without pickles.

    Args:
        file: the table.
        test_file: another table to test on; by default a part of ``file``.
        val_fraction: share of the rows that becomes validation.
        test_fraction: share of the rows that becomes test, without ``test_file``.
        batch_size: rows per batch and process.
        seed: seed of splits and order.
    """

    def __init__(
        self,
        file: str,
        test_file: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=0)
        self.file, self.test_file = Path(file).expanduser(), Path(test_file).expanduser() if test_file else None
        self.val_fraction, self.test_fraction = val_fraction, 0.0 if test_file else test_fraction

    def setup(self, stage: str) -> None:
        """Read the tables and split the rows; groups are not divided.

        Raises:
            ManifestError: if a file is missing or not such a table.
        """
        if stage == "predict":
            raise ManifestError("A feature table has labels already; take SpectrumDataModule to judge images.")
        rows, features = read_feature_table(self.file)
        fractions = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
        split = assign_splits(rows, **fractions, seed=self.seed)["split"].to_numpy()
        sets = {name: FeatureTable(rows[split == name], features[split == name]) for name in ("train", "val", "test")}
        self.train_set, self.val_set = sets["train"], sets["val"]
        self.test_sets = {self.file.stem: sets["test"]}
        if self.test_file is not None:
            self.test_sets = {self.test_file.stem: FeatureTable(*read_feature_table(self.test_file))}


def read_feature_table(file: Path) -> tuple[pd.DataFrame, torch.Tensor]:
    """Rows and features of an ``.npz`` table.

    Args:
        file: as described at :class:`FeatureTableDataModule`.

    Returns:
        Rows with ``path``, ``label``, ``generator`` and ``group`` (None where the file has none), and the features,
        float64 ``(N, K)``.

    Raises:
        ManifestError: if the file is missing, lacks an array, or its arrays do not fit together.
    """
    if not file.is_file():
        raise ManifestError(f"data.file={file} does not exist; give a table of features, .npz.")
    table = _arrays(file)
    if "features" not in table or not {"is_fake", "label"} & table.keys():
        raise ManifestError(f"{file} holds {list(table)}; it needs `features` and one of `is_fake`, `label`.")
    features = torch.from_numpy(table["features"].astype(np.float64))
    labels = table["is_fake" if "is_fake" in table else "label"].astype(np.int64)
    groups = table["group"].astype(str) if "group" in table else None
    paths = table["path"].astype(str) if "path" in table else [f"{file.stem}/{i:06d}" for i in range(len(labels))]
    values = set(labels.tolist())
    if features.ndim != 2 or features.shape[0] != len(labels) or not values <= {0, 1}:
        raise ManifestError(
            f"{file}: features of shape {tuple(features.shape)} and {len(labels)} labels {sorted(values)[:5]}; need "
            "(N, K) and N labels, 0 real and 1 fake."
        )
    generator = np.where(labels == 1, "fake", "real").astype(object)
    return pd.DataFrame({"path": paths, "label": labels, "generator": generator, "group": groups}), features


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz`` file."""
    try:
        with np.load(file, allow_pickle=False) as table:
            return {name: table[name] for name in table.files}
    except Exception as error:  # a damaged file raises nearly any type
        raise ManifestError(
            f"data.file={file} is no .npz file of plain numbers and text, or is damaged ({error}). Write it with "
            "np.savez(file, features=..., label=...)."
        ) from error
