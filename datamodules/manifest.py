"""The table that every image datamodule works on: one row per image, from a folder tree or a CSV file.

Columns: `path` (relative to the data root, forward slashes), `label` (int64, 0 = real, 1 = fake), `generator`
("real" for reals; the generator's name for fakes, "fake" if unknown), `class`, `split` ("train", "val", "test") and
`group` (text or None), and once `add_scan` has run, those of the scan: `width`, `height`, `format`, `quality`,
`subsampling`, `standard_tables`, `tables`, `exif`, `sha256`, `orientation`, `bytes` and `mode`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from datamodules.scan import IMAGE_SUFFIXES, SCAN_COLUMNS, format_report, list_images, write_report

__all__ = [
    "MANIFEST_COLUMNS",
    "SPLIT_FOLDERS",
    "ManifestError",
    "add_scan",
    "manifest_from_folder",
]

logger = logging.getLogger(__name__)

OWN_COLUMNS = ("path", "label", "generator", "class", "split", "group")
MEASURED_COLUMNS = {
    "width": "int64",
    "height": "int64",
    "format": "object",
    "quality": "Int64",
    "subsampling": "object",
    "standard_tables": "boolean",
    "tables": "object",
    "exif": "boolean",
    "sha256": "object",
    "orientation": "int64",
    "bytes": "int64",
    "mode": "object",
}
MANIFEST_COLUMNS = (*OWN_COLUMNS, *MEASURED_COLUMNS)

_REAL_WORDS = ("real", "reals", "nature", "natural", "0_real", "authentic", "genuine")
_FAKE_WORDS = ("fake", "fakes", "ai", "synthetic", "generated", "1_fake", "deepfake")
_WORDS = {**dict.fromkeys(_REAL_WORDS, 0), **dict.fromkeys(_FAKE_WORDS, 1)}
_DIGITS = {"0": 0, "1": 1}
SPLIT_FOLDERS = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
_MOST_LEVELS = 4  # a class folder lies at most here: <generator>/<any>/<split>/<label>


class ManifestError(ValueError):
    """The data are not laid out as they should be; the message names the key, file or folder and the mend."""


class _Place(NamedTuple):
    """What the folders on an image's path say."""

    label: int
    generator: str
    image_class: str | None
    split: str | None
    folder: tuple[str, ...]  # the class folder, down from the root
    wrappers: tuple[str, ...]  # folders above the class folder that name no split


def manifest_from_folder(root: str | Path) -> pd.DataFrame:
    """Table the images of a folder tree by the names of their folders.

    A class folder is a folder with one of these names, in any case: ``real``, ``reals``, ``nature``, ``natural``,
    ``0_real``, ``authentic``, ``genuine``, ``0`` for reals; ``fake``, ``fakes``, ``ai``, ``synthetic``, ``generated``,
    ``1_fake``, ``deepfake``, ``1`` for fakes. On each path the outermost such name counts, words before digits. A split
    folder is named ``train``/``training``, ``val``/``valid``/``validation`` or ``test``/``testing``. Accepted are::

        <root>/[<split>/]<label>/<file>
        <root>/[<split>/]<label>/<class>/<file>            further levels join the class: "animal/cat"
        <root>/<label>/<split>/[<class>/]<file>
        <root>/<generator>/[<split>/]<label>/[<class>/]<file>
        <root>/<split>/<generator>/<label>/[<class>/]<file>
        <root>/<generator>/<any>/[<split>/]<label>/<file>  the generator is not told from <any>: it is "fake"

    Images outside class folders are left out with a warning, and so is a lone folder above all class folders
    taken for a generator's.

    Args:
        root: the folder, `data.root`.

    Returns:
        Manifest with the columns `path` (sorted), `label`, `generator`, `class`, `split` and `group` (None).

    Raises:
        ManifestError: if `root` is missing, holds no images or no class folders, lies a level too low or too
            high, has an empty class folder, or only one of the two labels.
    """
    root = existing_root(root)
    paths = list_images(root)
    if not paths:
        raise ManifestError(
            f"data.root={root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); pass --data.root FOLDER."
        )
    folders = [tuple(path.split("/")[:-1]) for path in paths]
    places = [_place(folder) for folder in folders]
    _refuse_low_root(root, folders)
    found = {place for place in places if place is not None}
    if not found:
        raise ManifestError(_no_class_folders(root, folders))
    _refuse_empty_class_folders(root, folders)
    _refuse_high_root(root, found)
    if len({place.label for place in found}) < 2:
        name = "fake" if found.pop().label else "real"
        raise ManifestError(
            f"Constant labels: every image in a class folder under data.root={root} is {name}; a detector needs both. "
            "Add the other class folder, or pass --data.root of the folder that holds both."
        )
    if None in places:
        outside = paths[places.index(None)]
        logger.warning("%d images outside class folders are left out, e.g. %s", places.count(None), outside)
    return pd.DataFrame(
        [
            (path, place.label, place.generator, place.image_class, place.split, None)
            for path, place in zip(paths, places, strict=True)
            if place is not None
        ],
        columns=list(OWN_COLUMNS),
        dtype="object",
    ).astype({"label": "int64"})


def existing_root(root: str | Path) -> Path:
    """The root as a path; refuses one that is no folder."""
    path = Path(root).expanduser()
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise ManifestError(f"data.root={root} {state}; pass --data.root FOLDER.")
    return path


@cache
def _place(folder: tuple[str, ...]) -> _Place | None:
    """What the names of the folders on a path say; None without a class folder among them."""
    at = _class_folder(folder)
    if at is None:
        return None
    name = folder[at].lower()
    label = _WORDS[name] if name in _WORDS else _DIGITS[name]
    before, after = folder[:at], folder[at + 1 :]
    splits = [SPLIT_FOLDERS[part.lower()] for part in before if part.lower() in SPLIT_FOLDERS]
    wrappers = tuple(part for part in before if part.lower() not in SPLIT_FOLDERS)
    if after and after[0].lower() in SPLIT_FOLDERS:
        splits.append(SPLIT_FOLDERS[after[0].lower()])
        after = after[1:]
    return _Place(
        label=label,
        generator="real" if label == 0 else wrappers[0] if len(wrappers) == 1 else "fake",
        image_class="/".join(after) or None,
        split=splits[0] if splits else None,
        folder=folder[: at + 1],
        wrappers=wrappers,
    )


def _class_folder(folder: Sequence[str]) -> int | None:
    """Position of the class folder: the outermost word ("real"), else the outermost digit ("0")."""
    for names in (_WORDS, _DIGITS):
        for at, part in enumerate(folder):
            if part.lower() in names:
                return at
    return None


def _refuse_low_root(root: Path, folders: Sequence[tuple[str, ...]]) -> None:
    """Refuse a root that is a class folder itself or lies inside one."""
    if any(part.lower() in _WORDS for folder in set(folders) for part in folder):
        return
    root = root.absolute()
    for folder in (root, *list(root.parents)[: _MOST_LEVELS - 1]):
        labels = {**_WORDS, **_DIGITS}
        own = labels.get(folder.name.lower())
        if own is None:
            continue
        siblings = {labels.get(other.name.lower()) for other in folder.parent.iterdir() if other.is_dir()}
        if 1 - own in siblings or (folder == root and folder.name.lower() in _WORDS):
            raise ManifestError(
                f"Wrong folder level: data.root={root} lies in the class folder {folder.name!r}; pass the folder "
                f"that holds both class folders, --data.root {folder.parent}"
            )


def _refuse_high_root(root: Path, places: set[_Place]) -> None:
    """Refuse a root whose class folders lie too deep, or all below one folder that is no generator's."""
    levels = takewhile(lambda names: len(set(names)) == 1, zip(*(place.wrappers for place in places), strict=False))
    shared = tuple(names[0] for names in levels)
    is_wrapped = shared and max(len(place.wrappers) for place in places) > 1
    deepest = max((place.folder for place in places), key=len)
    if is_wrapped or len(deepest) > _MOST_LEVELS:
        kept = _through(deepest, shared) if is_wrapped else deepest[:-_MOST_LEVELS]
        raise ManifestError(
            f"Wrong folder level: the class folder {'/'.join(deepest)} lies {len(deepest)} levels below "
            f"data.root={root}; pass --data.root {root.joinpath(*kept)}"
        )
    if shared:
        logger.warning(
            "All class folders lie in %s, which is taken for a generator's name; if it is not, pass --data.root %s",
            root / shared[0],
            root / shared[0],
        )


def _through(folder: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The start of a folder's path up to the last of the given names, which occur in it in that order."""
    end = 0
    for name in names:
        end = folder.index(name, end) + 1
    return folder[:end]


def _no_class_folders(root: Path, folders: Sequence[tuple[str, ...]]) -> str:
    """Message for a tree without class folders."""
    names = sorted({folder[0] for folder in folders if folder})
    found = f"it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "it holds only files"
    return (
        f"No class folders under data.root={root}: {found}. Name them real and fake (or "
        f"{', '.join((*_REAL_WORDS[1:], '0', *_FAKE_WORDS[1:], '1'))}), or pass a CSV with --data.manifest FILE."
    )


def _refuse_empty_class_folders(root: Path, folders: Sequence[tuple[str, ...]]) -> None:
    """Refuse a tree with a class folder that holds no image, at any level above the images' own class folders."""
    used = {folder[:depth] for folder in set(folders) for depth in range(1, len(folder) + 1)}
    for folder in _named_folders(root):
        if folder not in used:
            raise ManifestError(
                f"The class folder {root.joinpath(*folder)} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "fill it, or remove it if it is not wanted."
            )


def _named_folders(root: Path) -> Iterator[tuple[str, ...]]:
    """Folders named like a class, without those inside a folder that is named so."""
    for place, subfolders, _ in os.walk(root, followlinks=True):
        parts = Path(place).relative_to(root).parts
        if len(parts) >= _MOST_LEVELS:
            subfolders.clear()
        for name in list(subfolders):
            if name.startswith(".") or name == "__MACOSX":
                subfolders.remove(name)
            elif name.lower() in _WORDS or name.lower() in _DIGITS:
                subfolders.remove(name)
                yield (*parts, name)


def add_scan(
    manifest: pd.DataFrame,
    scan: pd.DataFrame,
    on_corrupt: Literal["skip", "raise"],
    report: Path | None,
) -> pd.DataFrame:
    """Join a manifest with the scan of its files, and deal with the files that cannot be used.

    Args:
        manifest: rows with `path` and any other columns; measured columns that it has already are replaced.
        scan: what `scan_images` returned for these paths.
        on_corrupt: "skip" leaves bad files out and logs their number; "raise" refuses them.
        report: CSV to which the bad files and their reasons are written, if there are any; a report of an
            earlier run is replaced in any case. None: no report.

    Returns:
        The rows with usable files in their order, numbered from 0, with the measured columns added.

    Raises:
        ManifestError: if files are bad and `on_corrupt` is "raise", or none is left.
        ValueError: if `on_corrupt` is something else, or paths of the manifest are not in the scan.
    """
    if on_corrupt not in ("skip", "raise"):
        raise ValueError(f"on_corrupt must be 'skip' or 'raise', got {on_corrupt!r}")
    unscanned = set(manifest["path"]) - set(scan["path"])
    if unscanned:
        raise ValueError(f"{len(unscanned)} paths of the manifest are not in the scan, e.g. {min(unscanned)}")
    kept = [name for name in manifest.columns if name not in SCAN_COLUMNS or name == "path"]
    scan = scan.drop_duplicates("path")
    scan = scan[scan["path"].isin(set(manifest["path"]))]
    bad = scan["error"].notna()
    if report is not None and (bad.any() or report.exists()):
        write_report(scan, report)
    if bad.any():
        _handle_bad_files(scan, on_corrupt, report)
    good = scan.loc[~bad, ["path", *MEASURED_COLUMNS]].astype(MEASURED_COLUMNS)
    return manifest[kept].merge(good, on="path", how="inner", validate="many_to_one")


def _handle_bad_files(scan: pd.DataFrame, on_corrupt: str, report: Path | None) -> None:
    """Log the number of bad files, or refuse them."""
    count = int(scan["error"].notna().sum())
    listed = f"; they are listed in {report}" if report is not None else ""
    lines = format_report(scan).splitlines()
    shown = "\n".join(lines[:6]) + (f"\n  ... and {len(lines) - 6} more" if len(lines) > 6 else "")
    if on_corrupt == "skip" and count < len(scan):
        named = listed or f":\n{shown}"
        logger.warning("%d of %d files cannot be used and are left out%s", count, len(scan), named)
        return
    mend = "Restore or remove them" if count == len(scan) else "Restore or remove them, or pass --data.on_corrupt skip"
    raise ManifestError(f"{shown}\n{mend}{listed}.")
