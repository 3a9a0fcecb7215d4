"""Selections of training images that take codec and size out of the label (Grommelt et al. 2024).

A selection is a list of filters and a rule for re-encoding the fakes. Filters compose, look at the manifest only and
are counted: the report tells how many reals and fakes each of them left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

__all__ = [
    "BalanceClasses",
    "BalanceLabels",
    "Filter",
    "RealQuality",
    "RealSize",
    "Selection",
    "SelectionError",
    "named_selection",
    "quality_histogram",
    "select",
]

FakeQuality = int | Literal["matched"] | None


class SelectionError(ValueError):
    """A selection left nothing to train on."""


class Filter(ABC):
    """Keeps some rows of a manifest. Subclasses are frozen dataclasses: their arguments are their report."""

    @abstractmethod
    def __call__(self, manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Return the rows to keep, in their order; ``seed`` settles random draws."""


@dataclass(frozen=True)
class RealQuality(Filter):
    """Keep only reals that are JPEG files of one quality; fakes pass.

    Args:
        quality: IJG quality, 1 to 100.
    """

    quality: int = 96

    def __call__(self, manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Reals of another quality or format go."""
        return manifest[(manifest["label"] == 1) | (manifest["quality"] == self.quality).fillna(False)]


@dataclass(frozen=True)
class RealSize(Filter):
    """Keep only reals with both sides in a window; fakes pass.

    Args:
        low: smallest side in pixels.
        high: largest side in pixels.
    """

    low: int = 450
    high: int = 550

    def __call__(self, manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Reals with a side outside the window go."""
        sides = manifest[["width", "height"]]
        inside = (sides.min(axis=1) >= self.low) & (sides.max(axis=1) <= self.high)
        return manifest[(manifest["label"] == 1) | inside]


@dataclass(frozen=True)
class BalanceLabels(Filter):
    """Draw equally many reals and fakes.

    Args:
        most: upper limit per label; none by default.
    """

    most: int | None = None

    def __call__(self, manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
        """The larger label is thinned out."""
        return _balance(manifest, pd.Series("", index=manifest.index), self.most, seed)


@dataclass(frozen=True)
class BalanceClasses(Filter):
    """Draw equally many reals and fakes of each content class; classes that one label lacks go."""

    def __call__(self, manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Per class the larger label is thinned out.

        Raises:
            SelectionError: if images have no class.
        """
        if manifest["class"].isna().any():
            raise SelectionError(
                "BalanceClasses needs the content class of every image: give the manifest a `class` column, or use "
                "BalanceLabels."
            )
        return _balance(manifest, manifest["class"].astype(str), None, seed)


@dataclass(frozen=True)
class Selection:
    """Filters and re-encoding that belong together.

    Args:
        filters: applied in order.
        fake_quality: JPEG quality that fakes are saved with at native size before any crop; ``"matched"`` draws it
            for each image from the reals' histogram; None leaves them as they are.
        all_reals: take reals from every generator's folder, not only from the training generators' own.
    """

    filters: tuple[Filter, ...] = ()
    fake_quality: FakeQuality = None
    all_reals: bool = False


def named_selection(name: str, quality: int = 96, size_window: tuple[int, int] = (450, 550)) -> Selection:
    """The published training regimes.

    Args:
        name: ``raw``, ``jpeg96``, ``quality_matched`` or ``constrained``.
        quality: quality of ``jpeg96`` and ``constrained``.
        size_window: sides that ``constrained`` allows for reals.

    Raises:
        SelectionError: for another name.
    """
    same_quality = RealQuality(quality)
    table = {
        "raw": Selection(),
        "jpeg96": Selection((same_quality, BalanceLabels()), fake_quality=quality),
        "quality_matched": Selection(fake_quality="matched"),
        "constrained": Selection(
            (RealSize(*size_window), same_quality, BalanceClasses()), fake_quality=quality, all_reals=True
        ),
    }
    if name not in table:
        raise SelectionError(f"data.selection={name!r} is none of {', '.join(table)}.")
    return table[name]


def select(manifest: pd.DataFrame, filters: Sequence[Filter], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Apply filters in order.

    Args:
        manifest: table with the columns of :mod:`datamodules.manifest`.
        filters: what to keep.
        seed: settles random draws.

    Returns:
        The kept rows, and a report with the columns ``step, real, fake``: counts before, and after each filter.

    Raises:
        SelectionError: if a label is left without images; the report is in the message.
    """
    counts = [("all", *_counts(manifest))]
    for step in filters:
        manifest = step(manifest, seed)
        counts.append((repr(step), *_counts(manifest)))
    report = pd.DataFrame(counts, columns=["step", "real", "fake"])
    if 0 in counts[-1][1:]:
        raise SelectionError(
            "The selection leaves no image of one label; widen data.size_window, or choose another data.selection "
            f"or data.quality.\n{report.to_string(index=False)}"
        )
    return manifest, report


def quality_histogram(manifest: pd.DataFrame) -> np.ndarray:
    """Share of each JPEG quality among the reals, shape ``(101,)``, index = quality.

    Raises:
        SelectionError: if no real is a JPEG file.
    """
    qualities = manifest.loc[manifest["label"] == 0, "quality"].dropna().astype(int)
    if qualities.empty:
        raise SelectionError("fake_quality='matched' draws from the reals' JPEG qualities, but no real is a JPEG.")
    return np.bincount(qualities, minlength=101) / len(qualities)


def _counts(manifest: pd.DataFrame) -> tuple[int, int]:
    fakes = int((manifest["label"] == 1).sum())
    return len(manifest) - fakes, fakes


def _balance(manifest: pd.DataFrame, key: pd.Series, most: int | None, seed: int) -> pd.DataFrame:
    """Equal numbers per label within each key: the lowest of a seeded random order stay."""
    # Drawn in the order of the paths, so that the choice does not depend on the order of the table.
    rank_of_path = manifest["path"].rank(method="first").astype(int).to_numpy() - 1
    order = pd.Series(np.random.default_rng(seed).permutation(len(manifest))[rank_of_path], index=manifest.index)
    groups = [key, manifest["label"]]
    position = order.groupby(groups).rank(method="first")
    sizes = manifest.groupby(groups).size().unstack(fill_value=0).reindex(columns=[0, 1], fill_value=0).min(axis=1)
    quota = key.map(sizes)
    if most is not None:
        quota = quota.clip(upper=most)
    return manifest[position <= quota]
