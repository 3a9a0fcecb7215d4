"""What the files of each class and generator are like."""

from __future__ import annotations

import pandas as pd

__all__ = ["distributions"]


def distributions(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per label and generator.

    Args:
        rows: manifest with the columns of the scan.

    Returns:
        Text and numbers: images, formats, size, aspect, JPEG quality, chroma sampling, quantisation tables, share
        with EXIF data and bits per pixel.
    """
    lines = []
    for (label, generator), part in rows.groupby(["label", "generator"], sort=True):
        width, height = part["width"].astype(float), part["height"].astype(float)
        standard = part["standard_tables"].dropna().astype(float)
        lines.append(
            {
                "label": "fake" if label == 1 else "real",
                "generator": generator,
                "images": len(part),
                "format": _shares(part["format"]),
                "width": _spread(width),
                "height": _spread(height),
                "aspect": _spread(width / height, 2),
                "quality": _shares(part["quality"].dropna().astype(int)),
                "chroma": _shares(part["subsampling"]),
                "tables": f"{part['tables'].nunique()}, {100 * standard.mean():.0f} % IJG" if len(standard) else "",
                "EXIF": f"{100 * part['exif'].astype(float).mean():.0f} %",
                "bits/pixel": _spread(8 * part["bytes"].astype(float) / (width * height), 2),
            }
        )
    return pd.DataFrame(lines)


def _shares(values: pd.Series, most: int = 3) -> str:
    """The most frequent values with their shares."""
    counts = values.dropna().value_counts()
    total = counts.sum()
    named = [f"{value} {100 * count / total:.0f} %" for value, count in counts.head(most).items()]
    return ", ".join(named) + (f", {len(counts) - most} more" if len(counts) > most else "")


def _spread(values: pd.Series, digits: int = 0) -> str:
    """Median, and the range if there is one."""
    low, middle, high = (round(float(x), digits) if digits else int(x) for x in values.quantile([0, 0.5, 1]))
    return f"{middle}" if low == high else f"{middle} ({low} to {high})"
