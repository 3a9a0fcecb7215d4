"""Records of Hessian spectra on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Record", "read_records", "scalars_of"]

Record = dict[str, Any]


def read_records(folder: Path) -> list[Record]:
    """Records of a folder in the order of their names."""
    records = []
    for file in sorted(folder.glob("record_*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            records.append({key: arrays[key] for key in arrays.files})
    return records


def scalars_of(record: Record) -> dict[str, float]:
    """The finite numbers of a record, by the names under which they are logged."""
    scalars = {
        key: float(record[key])
        for key in (
            "loss",
            "gradient_norm",
            "gradient_curvature",
            "trace",
            "trace_error",
            "negative_mass",
            "seconds",
        )
    }
    for kind in ("top", "bottom"):
        scalars |= {f"{kind}_{index + 1}": float(value) for index, value in enumerate(record[kind])}
    return {key: value for key, value in scalars.items() if np.isfinite(value)}
