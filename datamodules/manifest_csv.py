"""The manifest of a CSV file, every cell checked."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.manifest import (
    MANIFEST_COLUMNS,
    MEASURED_COLUMNS,
    OWN_COLUMNS,
    SPLIT_FOLDERS,
    ManifestError,
    existing_root,
)

__all__ = ["manifest_from_csv"]

_CSV_LABELS = {"real": 0, "nature": 0, "0": 0, "fake": 1, "ai": 1, "1": 1}


def manifest_from_csv(csv_file: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Read a manifest from a CSV file.

    Args:
        csv_file: UTF-8 file with a header. `path` and `label` (real, fake, nature, ai, 0 or 1, in any case) are
            needed; the other columns of `MANIFEST_COLUMNS` may be there, in any order, with empty cells for
            missing values. `split` takes the names of split folders.
        root: folder that the paths are relative to; the CSV's own folder by default. Absolute paths are accepted.

    Returns:
        Manifest with the columns `path` (relative to `root` where it lies below it), `label`, `generator`,
        `class`, `split` and `group`, and those measured columns that the file has, in the file's order of rows.

    Raises:
        ManifestError: if the file or `root` is missing, a needed column is absent, a column unknown, a value not
            accepted, or a path repeated; the message names file, line and column.
    """
    csv_file = Path(csv_file).expanduser()
    if not csv_file.is_file():
        state = "is a folder" if csv_file.is_dir() else "does not exist"
        raise ManifestError(f"The manifest {csv_file} {state}; pass --data.manifest FILE.")
    root = csv_file.parent if root is None else existing_root(root)
    records: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    rows = _rows(csv_file)
    header = _header(csv_file, next(rows, (1, []))[1])
    for line, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{csv_file}, line {line}"
        if len(cells) != len(header):
            raise ManifestError(f"{where}: {len(cells)} values for {len(header)} columns; quote values with commas.")
        record = _record(where, dict(zip(header, (cell.strip() for cell in cells), strict=True)), root)
        first = lines.setdefault(record["path"], line)
        if first != line:
            raise ManifestError(f"{where}, column path: {record['path']!r} is already on line {first}; remove one.")
        records.append(record)
    if not records:
        raise ManifestError(f"{csv_file} has no rows; each image needs one, with path and label.")
    measured = {name: _nullable(MEASURED_COLUMNS[name]) for name in MEASURED_COLUMNS if name in header}
    frame = pd.DataFrame(
        [[record.get(name) for name in (*OWN_COLUMNS, *measured)] for record in records],
        columns=[*OWN_COLUMNS, *measured],
        dtype="object",
    )
    return frame.astype({"label": "int64", **measured})


def _rows(csv_file: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells of each row, with the line that it ends on."""
    with open(csv_file, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise ManifestError(f"{csv_file} is not UTF-8 ({error.reason}); save it as UTF-8.") from error
        except csv.Error as error:
            raise ManifestError(
                f"{csv_file}, line {reader.line_num + 1}: {error}; look for a quote that is never closed."
            ) from error


def _nullable(dtype: str) -> str:
    """The type of a measured column before a scan has filled it."""
    return "Int64" if dtype == "int64" else dtype


def _header(csv_file: Path, cells: Sequence[str]) -> list[str]:
    """Names of the columns; refuses unknown, repeated and absent ones."""
    header = [cell.strip() for cell in cells]
    unknown = [name for name in header if name not in MANIFEST_COLUMNS]
    absent = [name for name in ("path", "label") if name not in header]
    repeated = sorted({name for name in header if header.count(name) > 1})
    for fault, names in (("lacks", absent), ("has the unknown", unknown), ("repeats the", repeated)):
        if names:
            raise ManifestError(
                f"{csv_file}, line 1: the header {fault} column {', '.join(map(repr, names))}; accepted are "
                f"{', '.join(MANIFEST_COLUMNS)} (path and label are needed), separated by commas."
            )
    return header


def _record(where: str, cells: dict[str, str], root: Path) -> dict[str, Any]:
    """One row of the CSV with checked, typed values."""
    label = _choice(where, "label", cells["label"], _CSV_LABELS)
    if not cells["path"]:
        raise ManifestError(f"{where}, column path: empty; give the image's path.")
    generator = cells.get("generator", "")
    if label == 1 and generator.lower() == "real":
        raise ManifestError(f"{where}, column generator: 'real' for a fake; name the generator or leave it empty.")
    split = cells.get("split", "")
    record: dict[str, Any] = {
        "path": _relative(cells["path"], root),
        "label": label,
        "generator": (generator or "fake") if label else "real",
        "class": cells.get("class") or None,
        "split": _choice(where, "split", split, SPLIT_FOLDERS) if split else None,
        "group": cells.get("group") or None,
    }
    for name, dtype in MEASURED_COLUMNS.items():
        record[name] = _measured(where, name, cells.get(name, ""), dtype)
    return record


def _choice(where: str, column: str, value: str, accepted: dict[str, Any]) -> Any:
    """Look a value up in any case; refuses what is not accepted."""
    if value.lower() not in accepted:
        raise ManifestError(f"{where}, column {column}: {value!r} is not one of {', '.join(accepted)}.")
    return accepted[value.lower()]


def _measured(where: str, column: str, value: str, dtype: str) -> Any:
    """A value of a scan column from its text; None where it is empty."""
    if not value:
        return None
    if dtype == "boolean":
        return _choice(where, column, value, {"true": True, "false": False})
    if dtype == "object":
        return value
    try:
        return int(value)
    except ValueError:
        raise ManifestError(f"{where}, column {column}: {value!r} is not a whole number.") from None


def _relative(path: str, root: Path) -> str:
    """A path in normal form, relative to the root where it lies below it."""
    normal = Path(os.path.normpath(path))
    base = Path(os.path.abspath(root))
    return (normal.relative_to(base) if normal.is_relative_to(base) else normal).as_posix()
