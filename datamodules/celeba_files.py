"""Where a folder of faces keeps its tables: CelebA's own layout, the CSV tables of its mirrors, or any one table."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["FaceTable", "read_face_table", "region_mask_files"]

_ATTRIBUTES, _LANDMARKS, _PARTITION = "list_attr_celeba", "list_landmarks_align_celeba", "list_eval_partition"
_IMAGES = "img_align_celeba"
_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
_PARTS = {
    "mouth": ("mouth", "u_lip", "l_lip"),
    "eyes": ("l_eye", "r_eye", "l_brow", "r_brow", "eye_g"),
    "nose": ("nose",),
}  # CelebAMask-HQ's file names


@dataclass(frozen=True)
class FaceTable:
    """What is known of N images that exist.

    Args:
        files: their paths.
        attributes: 0 or 1, shape ``(N, A)``.
        landmarks: x and y in pixels of the file, ``(N, 5, 2)``; None without a table of them.
        parts: 0 for training, 1 for validation, 2 for the test, ``(N,)``; None without a table of them.
    """

    files: list[Path]
    attributes: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None
    parts: NDArray[np.int64] | None


def read_face_table(
    root: str | Path, attributes: list[str], images: str | None = None, table: str | None = None
) -> FaceTable:
    """Read the tables of a folder, and keep the images that are there.

    Args:
        root: folder with ``img_align_celeba/``, ``list_attr_celeba.txt`` and, where they exist,
            ``list_landmarks_align_celeba.txt`` and ``list_eval_partition.txt``, in it or in ``Anno/`` and ``Eval/``; or
            the same tables as ``.csv``.
        attributes: columns to keep.
        images: folder of the images, below the root, if it has another name.
        table: table of attributes, below the root, if it has another name; its first column names the files.

    Raises:
        FileNotFoundError: if folder or table are missing.
        ValueError: if an attribute is unknown, no image of the table exists, or a table is damaged or incomplete.
    """
    root = Path(root)
    folder = _image_folder(root, images)
    frame = _read(_found(root, _ATTRIBUTES, table, needed=True))
    for name in attributes:
        if name not in frame.columns:
            close = difflib.get_close_matches(name, map(str, frame.columns), 3, 0.5) or list(frame.columns[:8])
            raise ValueError(f"data.attributes: the table in {root} has no {name!r}; it has {', '.join(close)}.")
    present = {path.name for path in folder.iterdir()}
    names = [name for name in frame.index if name in present]
    if not names:
        raise ValueError(
            f"None of the {len(frame)} files that the table names, such as {frame.index[0]!r}, is in {folder}. Set "
            "data.images to the folder that has them."
        )
    frame = _numbers(frame[attributes], _found(root, _ATTRIBUTES, table), "1 or -1")
    values = (frame.loc[names].to_numpy() > 0).astype(np.float32)
    return FaceTable([folder / name for name in names], values, _landmarks(root, names), _parts(root, names))


def region_mask_files(folder: Path, image: str, regions: list[str]) -> list[Path]:
    """Mask files of an image's regions: ``<stem>.png``, or CelebAMask-HQ's parts ``00012_u_lip.png`` in any subfolder.

    Args:
        folder: of the masks.
        image: file name of the image.
        regions: ``mouth``, ``eyes``, ``nose``.

    Raises:
        FileNotFoundError: if there is none.
    """
    stem = Path(image).stem
    single = folder / f"{stem}.png"
    if single.is_file():
        return [single]
    if stem.isdigit():
        number = int(stem)
        places = (folder / str(number // 2000), folder)
        names = [f"{number:05d}_{part}.png" for region in regions for part in _PARTS[region]]
        found = [place / name for place in places for name in names if (place / name).is_file()]
        if found:
            return found
    raise FileNotFoundError(
        f"data.masks={str(folder)!r} has neither {stem}.png nor CelebAMask-HQ parts of {image}: {', '.join(regions)}."
    )


def _image_folder(root: Path, images: str | None) -> Path:
    tried = [root / images] if images else [root / _IMAGES / _IMAGES, root / _IMAGES, root / "images"]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"There is no folder of images: none of {', '.join(map(str, tried))}. Set data.root or data.images."
    )


def _found(root: Path, name: str, given: str | None = None, needed: bool = False) -> Path | None:
    folders = (root, root / "Anno", root / "Eval")
    tried = [root / given] if given else [folder / f"{name}{end}" for end in (".txt", ".csv") for folder in folders]
    path = next((path for path in tried if path.is_file()), None)
    if path is None and needed:
        raise FileNotFoundError(f"There is no table {' or '.join(map(str, tried[:1] + tried[3:4]))}. Set data.table.")
    return path


def _read(path: Path | None) -> pd.DataFrame:
    """A table, indexed by file name. CelebA's text tables begin with a count and leave the first heading out."""
    assert path is not None
    try:
        frame = pd.read_csv(path, index_col=0) if path.suffix == ".csv" else _of_lines(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} is empty or no table ({error}); restore it.") from error
    if frame.empty:
        raise ValueError(f"{path} is empty; restore it.")
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()][0]
        raise ValueError(f"{path} has two rows for {twice}; remove one.")
    return frame


def _of_lines(path: Path) -> pd.DataFrame:
    """A table of words between spaces."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    has_heading = len(lines) > 1 and len(lines[0]) == 1  # the partition has none at all
    start = 2 if has_heading else 0
    rows = [(number, line) for number, line in enumerate(lines[start:], start + 1) if line]
    columns = lines[1] if has_heading else [f"column_{index}" for index in range(len(rows[0][1]) - 1 if rows else 0)]
    for number, row in rows:
        if len(row) != len(columns) + 1:
            raise ValueError(
                f"{path}, line {number}: a file name and {len(row) - 1} values for {len(columns)} columns; complete it."
            )
    return pd.DataFrame([row[1:] for _, row in rows], [row[0] for _, row in rows], columns)


def _numbers(frame: pd.DataFrame, path: Path | None, accepted: str) -> pd.DataFrame:
    """The table as numbers."""
    numbers = frame.apply(pd.to_numeric, errors="coerce")
    wrong = np.argwhere(numbers.isna().to_numpy())
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{path}: {frame.iat[row, column]!r} is the value of {frame.columns[column]} for {frame.index[row]}; it "
            f"must be {accepted}."
        )
    return numbers


def _landmarks(root: Path, names: list[str]) -> NDArray[np.float32] | None:
    path = _found(root, _LANDMARKS)
    if path is None:
        return None
    frame = _read(path)
    columns = [f"{point}_{axis}" for point in _POINTS for axis in "xy"]
    lacking = [column for column in columns if column not in frame.columns] or sorted(set(names) - set(frame.index))
    if lacking:
        what = "column" if lacking[0] in columns else "landmarks of"
        raise ValueError(f"{path} has no {what} {lacking[0]}; remove the table to use mean positions, or complete it.")
    points = _numbers(frame.loc[names, columns], path, "a number of pixels")
    return points.to_numpy().reshape(-1, 5, 2).astype(np.float32)


def _parts(root: Path, names: list[str]) -> NDArray[np.int64] | None:
    path = _found(root, _PARTITION)
    if path is None:
        return None
    frame = _read(path)
    lacking = sorted(set(names) - set(frame.index))
    if lacking:
        raise ValueError(
            f"{path} does not say which part {lacking[0]} belongs to; remove the table to draw parts, or complete it."
        )
    accepted = "0, 1 or 2: training, validation or test"
    parts = _numbers(frame.loc[names].iloc[:, :1], path, accepted).iloc[:, 0]
    other = parts[~parts.isin([0, 1, 2])]
    if len(other):
        raise ValueError(f"{path} gives {other.index[0]} the part {other.iloc[0]}; it must be {accepted}.")
    return parts.to_numpy().astype(np.int64)
