"""How well simple probes tell real from fake by what has nothing to do with the picture."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from datamodules.audit.view import METADATA, PixelTraces, View, metadata, pixel_traces, sample_rows
from datamodules.splits import components
from functional.jpeg_history import EVIDENCE
from functional.leakage import auroc, auroc_interval

__all__ = ["LEAK", "PROBES", "Leak", "Leakage", "measure"]

LEAK = 0.6
"""AUROC above which a shortcut counts as one."""

PROBES = {
    "metadata": "size, format and compression together, without looking at pixels",
    "format": "file format alone",
    "quality": "JPEG quality of the file alone",
    "chroma": "chroma sampling of the file alone",
    "tables": "quantisation tables of other makers alone",
    "size": "width and height alone",
    "exif": "presence of EXIF data, which pixels do not show",
    "colour": "whether an image is grey",
    "codec": "JPEG quality and grid that can be read off the pixels",
    "spectrum": "radial power spectrum: resampling, or the generator itself",
}

_FOLDS = 5
SHORTCUTS = ("metadata", "codec", "colour")
"""Probes whose success is none of the generator's doing."""

LEAST_IMAGES = 10
"""Images of each label below which no figure is given."""
_LEAST_GROUPS = 4  # of each label
_MOST_ROWS = 4000  # per label, for metadata


@dataclass(frozen=True)
class Leak:
    """AUROC of one probe.

    Attributes:
        auroc: out-of-fold AUROC; 0.5 is chance.
        low: lower bound of the 95 % interval.
        high: upper bound.
        images: number of images.
        by_generator: AUROC of each generator's fakes against all reals.
    """

    auroc: float
    low: float
    high: float
    images: int
    by_generator: dict[str, float]

    @property
    def leaks(self) -> bool:
        """Whether the label can be told, beyond chance."""
        return self.auroc > LEAK and self.low > 0.5

    @property
    def suspect(self) -> bool:
        """Whether the label can perhaps be told, but there are too few images or groups to be sure."""
        return self.auroc > LEAK and not self.leaks

    def __str__(self) -> str:
        return f"{self.auroc:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Leakage:
    """All probes of one view.

    Attributes:
        real: number of real images.
        fake: number of fakes.
        leaks: AUROC by probe, see :data:`PROBES`; empty if there are too few images to say anything.
        problem: why there are no figures, if there are none.
    """

    real: int
    fake: int
    leaks: dict[str, Leak]
    problem: str | None = None

    @property
    def worst(self) -> tuple[str, Leak] | None:
        """The worst of the :data:`SHORTCUTS`, if it counts as one."""
        found = [(name, self.leaks[name]) for name in SHORTCUTS if name in self.leaks]
        found = [item for item in found if item[1].leaks]
        return max(found, key=lambda item: item[1].auroc, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Leakage:
        """The inverse of :meth:`as_dict`."""
        leaks = {name: Leak(**leak) for name, leak in content["leaks"].items()}
        return cls(content["real"], content["fake"], leaks, content["problem"])


def measure(
    view: View, per_label: int = 300, seed: int = 0, spectrum: bool = True
) -> tuple[Leakage, NDArray[np.int64], PixelTraces | None]:
    """Run the probes.

    Args:
        view: the images.
        per_label: most images of each label whose pixels are looked at.
        seed: seed of samples and folds.
        spectrum: run the spectrum probe too.

    Returns:
        The figures, the positions of the images whose pixels were looked at, and what their pixels told.
    """
    labels = view.rows["label"].to_numpy(np.int64)
    counts = [int((labels == label).sum()) for label in (0, 1)]
    groups = components(view.rows)
    independent = [len(np.unique(groups[labels == label])) for label in (0, 1)]
    if min(counts) < LEAST_IMAGES or min(independent) < _LEAST_GROUPS:
        problem = f"{counts[0]} real and {counts[1]} fake images in {independent[0]} and {independent[1]} groups"
        return Leakage(counts[0], counts[1], {}, problem), np.zeros(0, dtype=np.int64), None
    leaks: dict[str, Leak] = {}
    many = sample_rows(view.rows, _MOST_ROWS, seed)
    table = metadata(view).iloc[many]
    every = [column for group in METADATA.values() for column in group]
    for name, columns in {"metadata": every, **METADATA, "exif": ["exif"]}.items():
        leaks[name] = _probe(table[columns].to_numpy(), view.rows.iloc[many], _tree(len(many)), seed)
    few = sample_rows(view.rows, per_label, seed)
    traces = pixel_traces(view, few)
    rows = view.rows.iloc[few]
    leaks["colour"] = _probe(traces.gray[:, None].astype(float), rows, _tree(len(few)), seed)
    leaks["codec"] = _probe(_codec_features(traces), rows, _tree(len(few)), seed)
    if spectrum:
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
        leaks["spectrum"] = _probe(traces.spectrum, rows, linear, seed)
    return Leakage(counts[0], counts[1], leaks), few, traces


def _codec_features(traces: PixelTraces) -> NDArray[np.float64]:
    """Quality and grid, shape ``(N, 2)``.

    Small and flat images leave several histories open; which of them comes out best is decided by content. Each such
    image is put with the history that is most frequent in the data set among those it leaves open.
    """
    features = np.stack((traces.quality, traces.grid), axis=1).astype(float)
    ratios = np.concatenate((np.zeros((len(features), 1)), traces.evidence), axis=1)  # by quality, 0 is none
    is_open = ratios >= ratios.max(axis=1, keepdims=True) - EVIDENCE
    settled = np.zeros(len(features), dtype=bool)
    values, counts = np.unique(features, axis=0, return_counts=True)
    for quality, grid in values[np.argsort(-counts, kind="stable")]:
        same_grid = (traces.grid == grid) | (quality == 0)
        chosen = ~settled & same_grid & is_open[:, int(quality)]
        features[chosen] = quality, grid
        settled |= chosen
    return features


def _tree(count: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(min_samples_leaf=max(3, count // 200), class_weight="balanced", random_state=0)


def _probe(features: NDArray[np.float64], rows: pd.DataFrame, classifier: Any, seed: int) -> Leak:
    """Out-of-fold AUROC; images of one group, or with one content, lie in one fold."""
    labels, groups = rows["label"].to_numpy(np.int64), components(rows)
    scores = np.full(len(labels), 0.5)
    if (features != features[0]).any():
        parts = min(_FOLDS, *(len(np.unique(groups[labels == label])) for label in (0, 1)))
        folds = StratifiedGroupKFold(max(parts, 2), shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class|The number of unique classes")
            for train, test in folds.split(features, labels, groups):
                if len(np.unique(labels[train])) == 2:
                    scores[test] = classifier.fit(features[train], labels[train]).predict_proba(features[test])[:, 1]
    interval = auroc_interval(scores, labels, groups)
    generators = rows["generator"].to_numpy()
    fakes = {str(name) for name in generators[labels == 1]}
    by_generator = {
        name: float(auroc(scores[chosen], labels[chosen]))
        for name in sorted(fakes)
        for chosen in [(labels == 0) | (generators == name)]
    }
    return Leak(*interval, len(labels), by_generator)
