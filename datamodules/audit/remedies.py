"""Settings that may take a shortcut out of a data set, each tried on the data before it is recommended."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pandas as pd

from datamodules.audit.leaks import Leakage, measure
from datamodules.audit.view import View
from datamodules.selections import BalanceLabels, Filter, RealQuality, RealSize, SelectionError

__all__ = ["Auditable", "Remedy", "candidates", "try_remedy"]

LOSSLESS = ("PNG", "BMP", "TIFF", "GIF")
DEFAULTS: dict[str, Any] = {
    "selection": "raw",
    "quality": 96,
    "size_window": [450, 550],
    "fake_quality": "auto",
    "common_size": None,
    "reencode_reals": False,
}
"""Defaults of :meth:`datamodules.RealFakeDataModule.set_alignment`."""
_SIDES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
_QUALITIES = (90, 75, 50)
_LEAST_LEFT = 50
_LEAST_SHARE = 0.1


class Auditable(Protocol):
    """What the audit needs of a datamodule; :class:`datamodules.RealFakeDataModule` has it."""

    image_size: int
    crop_size: int

    @property
    def source(self) -> str:
        """What the images are, for reports."""

    def files_view(self) -> View:
        """All files as they lie on the disk."""

    def training_view(self, name: str = ...) -> View:
        """The training images as they are selected and aligned."""

    def set_alignment(self, **settings: Any) -> None:
        """Choose selection and alignment."""

    def split_manifest(self) -> pd.DataFrame:
        """Scanned manifest with splits."""

    def unselected_rows(self, manifest: pd.DataFrame, split: str) -> pd.DataFrame:
        """Rows of a split that the selection chooses from."""

    def select_rows(self, manifest: pd.DataFrame, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Selected rows, and counts after each filter."""


@dataclass(frozen=True)
class Remedy:
    """Settings of the datamodule, and what is left with them.

    Attributes:
        settings: arguments of the datamodule.
        counts: training images after each filter, columns ``step, real, fake``; None if it cannot be applied.
        leakage: the probes on what is left.
        problem: why it cannot be applied or does not help, in one line; None if it does.
    """

    settings: dict[str, Any]
    counts: pd.DataFrame | None
    leakage: Leakage | None
    problem: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings in the form of a config file."""
        return {key: _plain(value) for key, value in self.settings.items()}

    @property
    def all_arguments(self) -> dict[str, Any]:
        """The settings and the defaults that they were measured with, which a config must not leave to another."""
        return {**DEFAULTS, **self.arguments}


def candidates(rows: pd.DataFrame, image_size: int, size_leaks: bool) -> Iterator[dict[str, Any]]:
    """Settings worth trying, the gentlest first: choose images, then re-encode, then resize all.

    Filters come before alignment because they leave the pixels of the images that stay; they apply where reals are
    JPEG files and fakes are not (Grommelt et al. 2024, Sec. 3). What is resized to half or less loses the traces of
    its earlier codec; where sizes agree, re-encoding below all earlier qualities hides them.

    Args:
        rows: manifest with the columns of the scan.
        image_size: side of the square that reaches the network.
        size_leaks: whether sizes tell the labels apart.

    Yields:
        Arguments of :meth:`datamodules.RealFakeDataModule.set_alignment`, ``image_size`` among them where it must be
        smaller.
    """
    reals, fakes = rows[rows["label"] == 0], rows[rows["label"] == 1]
    qualities = reals["quality"].dropna()
    if len(qualities) > len(reals) / 2 and fakes["format"].isin(LOSSLESS).mean() > 0.95:
        quality = int(qualities.mode().iloc[0])
        if not size_leaks:
            yield {"selection": "quality_matched"}
            yield {"selection": "jpeg96", "quality": quality}
        window = _window_around(fakes)
        if rows["class"].notna().all():
            yield {"selection": "constrained", "quality": quality, "size_window": window}
        filters: list[Filter] = [RealSize(*window), RealQuality(quality), BalanceLabels()]
        yield {"selection": filters, "fake_quality": quality}
    short = int(rows[["width", "height"]].min(axis=1).quantile(0.01))
    known = rows["quality"].dropna()
    if not size_leaks:
        below = [quality for quality in _QUALITIES if known.empty or quality <= known.min() - 10]
        if below:
            yield {"fake_quality": below[0], "reencode_reals": True}
    sides = [side for side in _SIDES if side <= short // 2] or [side for side in _SIDES if side <= short]
    for quality in _QUALITIES if sides else ():
        shrink = {"image_size": sides[-1]} if sides[-1] < image_size else {}
        yield {"common_size": sides[-1], "fake_quality": quality, "reencode_reals": True, **shrink}


def try_remedy(data: Auditable, settings: dict[str, Any], per_label: int, seed: int) -> Remedy:
    """Measure what leaks with some settings in place of the datamodule's own.

    Args:
        data: the datamodule; it stays as it is.
        settings: from :func:`candidates`.
        per_label: most images of each label whose pixels are looked at.
        seed: seed of samples and folds.
    """
    changed = copy.copy(data)
    alignment = dict(settings)
    changed.image_size = changed.crop_size = alignment.pop("image_size", min(data.image_size, data.crop_size))
    changed.set_alignment(**alignment)
    manifest = data.split_manifest()
    before = data.unselected_rows(manifest, "train")["label"].value_counts()
    try:
        rows, counts = changed.select_rows(manifest, "train")
    except SelectionError as error:
        return Remedy(settings, None, None, str(error).splitlines()[0])
    left = rows["label"].value_counts()
    kept = min(left.get(0, 0), left.get(1, 0))
    if len(rows) < before.sum() and kept < max(_LEAST_LEFT, _LEAST_SHARE * before.min()):
        return Remedy(settings, counts, None, f"leaves {left.get(0, 0)} reals and {left.get(1, 0)} fakes only")
    leakage, _, _ = measure(changed.training_view("after"), per_label, seed, spectrum=True)
    worst = leakage.worst
    problem = f"{worst[0]} still gives the label away, AUROC {worst[1]}" if worst else None
    return Remedy(settings, counts, leakage, problem)


def _window_around(fakes: pd.DataFrame) -> tuple[int, int]:
    """Sizes about those of the fakes, as 450 to 550 is about 512."""
    low = fakes[["width", "height"]].min(axis=1).quantile(0.05)
    high = fakes[["width", "height"]].max(axis=1).quantile(0.95)
    return int(0.88 * low), int(-(-1.08 * high // 1))


def _plain(value: Any) -> Any:
    """Filters as class paths, tuples as lists."""
    if isinstance(value, Filter):
        return {"class_path": f"datamodules.{type(value).__name__}", "init_args": asdict(value)}  # type: ignore[call-overload]
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
