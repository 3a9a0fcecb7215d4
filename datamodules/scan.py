"""One pass over image files: what they are, how they were compressed, and which of them are damaged.

Worker threads do the reading: hashing and Pillow's decoders release the interpreter lock, so on our machines
threads scan as fast as processes do, and they need neither a ``__main__`` guard nor a start-up.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError
from tqdm.auto import tqdm

from datamodules.decoding import FORMATS, exif_orientation, to_rgb
from functional.jpeg import estimate_quality

__all__ = ["IMAGE_SUFFIXES", "SCAN_COLUMNS", "format_report", "list_images", "scan_images", "write_report"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""Lower-case suffixes of the files that `list_images` takes for images."""

DEFAULT_WORKERS = min(16, os.cpu_count() or 1)

_DTYPES = {
    "path": "object",
    "width": "Int64",
    "height": "Int64",
    "format": "object",
    "mode": "object",
    "quality": "Int64",
    "standard_tables": "boolean",
    "subsampling": "object",
    "tables": "object",
    "exif": "boolean",
    "orientation": "Int64",
    "bytes": "Int64",
    "sha256": "object",
    "error": "object",
}
SCAN_COLUMNS = tuple(_DTYPES)
"""Columns of a scan; text columns hold str or None, the others are nullable."""

# What the cache keeps beside the result. `verified` stands last: a line cut short cannot pass for a whole one.
_CACHE_DTYPES = {**_DTYPES, "mtime_ns": "Int64", "verified": "boolean"}

_CHUNK = 32  # files per task: large enough to hide the pool's own cost, small enough for a smooth bar

_SUBSAMPLINGS = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}

_Row = dict[str, Any]


def list_images(folder: str | Path) -> list[str]:
    """Image files below a folder, by suffix in any case.

    Hidden files and folders (names with a leading dot, so also ``._*``) and ``__MACOSX`` are skipped; links to
    folders are followed unless they lead back to a folder above themselves.

    Args:
        folder: where to look, recursively.

    Returns:
        Sorted paths relative to `folder`, with forward slashes.

    Raises:
        NotADirectoryError: if `folder` is not a directory.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a directory")
    found: list[str] = []
    for place, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if _is_visible(name) and not _is_loop(Path(place, name))]
        relative = Path(place).relative_to(folder)
        found.extend(
            (relative / name).as_posix()
            for name in files
            if _is_visible(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        )
    return sorted(found)


def _is_visible(name: str) -> bool:
    """Whether a file or folder is one that its owner would list."""
    return not name.startswith(".") and name != "__MACOSX"


def _is_loop(folder: Path) -> bool:
    """Whether a folder is a link to a folder that contains it."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def scan_images(
    root: str | Path,
    paths: Sequence[str],
    *,
    cache: Path | None,
    workers: int = DEFAULT_WORKERS,
    verify_pixels: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Read every file once and table its size, coding, EXIF orientation, checksum and damage.

    With `verify_pixels`, each image is decoded in full and PNG checksums are compared. Formats without
    checksums (JPEG, lossy WebP, BMP, plain TIFF) can hold flipped bits that no decoder notices.
    An image with more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` counts as damaged.

    Args:
        root: folder that the paths are relative to.
        paths: files below `root` (absolute paths are taken as they are).
        cache: CSV file with earlier results, read first and written afterwards, also when the scan is
            interrupted; a file is read again when its size or modification time has changed. None: no cache.
        workers: number of reading threads, at least 1.
        verify_pixels: decode the pixels; without it only headers are read and damage behind them stays unseen.
        progress: show a progress bar.

    Returns:
        One row per path, in their order, with the columns `SCAN_COLUMNS`: `path`; `width` and `height` of the
        upright image; `format` ("JPEG", "PNG", ...) and Pillow's `mode`; for JPEG files `quality` (nearest IJG
        quality, 1 to 100), `standard_tables` (whether the tables are IJG's own), `tables` (eight hexadecimal digits
        that stand for them) and `subsampling` ("4:4:4", "4:2:2", "4:2:0", "gray", ...); `exif` (whether there are
        EXIF data) and their `orientation` (1 to 8); `bytes`; `sha256` of the file; `error`
        (None, or the reason in one line why the file cannot be used). An animation stands by its first frame.

    Raises:
        ValueError: if `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    root = Path(root)
    unique = list(dict.fromkeys(paths))
    known = _read_cache(cache)
    reused = known.loc[_reusable(known, root, unique, verify_pixels)]
    done = set(reused["path"])
    pending = [path for path in unique if path not in done]
    rows: list[_Row] = []
    try:
        with tqdm(
            total=len(unique),
            initial=len(done),
            desc="scan",
            unit="file",
            disable=not progress or len(done) == len(unique),
        ) as bar:
            for row in _scan_parallel(root, pending, workers, verify_pixels):
                rows.append(row)
                bar.update()
    finally:
        fresh = _frame(rows)
        if cache is not None and rows:
            _write_cache(cache, known, fresh)
    result = pd.concat([reused, fresh]).set_index("path").loc[list(paths)].reset_index()
    return result[list(SCAN_COLUMNS)]


def _scan_parallel(root: Path, paths: Sequence[str], workers: int, verify_pixels: bool) -> Iterator[_Row]:
    """Rows of the given files in their order, read by a pool of threads."""

    def scan_chunk(start: int) -> list[_Row]:
        return [_scan_file(root, path, verify_pixels) for path in paths[start : start + _CHUNK]]

    executor = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        with _strict_pillow():
            for rows in executor.map(scan_chunk, range(0, len(paths), _CHUNK)):
                yield from rows
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Let Pillow refuse truncated and oversized files, whatever another library has set, and keep quiet else."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():  # set once around the pool: the filters belong to the process
            warnings.filterwarnings("ignore", module=r"PIL\.")  # "Corrupt EXIF data" harms no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _scan_file(root: Path, path: str, verify_pixels: bool) -> _Row:
    """The row of one file; whatever is wrong with the file ends up in `error`."""
    row: _Row = {"path": path, "verified": verify_pixels}
    try:
        with open(root / path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return {**row, "error": "missing"}
    except OSError as error:
        return {**row, "error": f"unreadable: {error.strerror or type(error).__name__}"}
    row.update(bytes=len(data), mtime_ns=status.st_mtime_ns, sha256=hashlib.sha256(data).hexdigest())
    if not data:
        return {**row, "error": "empty"}
    try:
        _inspect(data, verify_pixels, row)
    except Exception as error:  # Pillow's plugins raise nearly any type on a damaged file
        row["error"] = _reason(error)
    return row


def _inspect(data: bytes, verify_pixels: bool, row: _Row) -> None:
    """Write what an image is into its row; raises what Pillow raises on damage."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        behind_headers = image.fp.tell() if image.fp is not None else 0  # and behind the thumbnail in them
        row.update(_header(image))
        if verify_pixels:
            image.load()
        if image.mode[0] in "FI":  # those that decoding refuses
            to_rgb(image)
    if verify_pixels and row["format"] == "JPEG" and data.find(b"\xff\xd9", behind_headers) < 0:
        raise ValueError("image file is truncated (no end-of-image marker)")  # zeros in its place can decode
    if verify_pixels and row["format"] == "PNG":
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.verify()  # the decoder passes over checksums and a missing end


def _header(image: Image.Image) -> _Row:
    """Size, coding and orientation of an image whose pixels are not loaded yet."""
    row: _Row = {"format": image.format, "mode": image.mode}
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        row.update(_jpeg_coding(image), format="JPEG")  # Pillow calls a JPEG with further pictures MPO
    width, height = image.size
    orientation = exif_orientation(image)
    if orientation >= 5 and image.format != "TIFF":  # Pillow gives TIFF sizes upright already
        width, height = height, width
    return {**row, "width": width, "height": height, "orientation": orientation, "exif": "exif" in image.info}


def _jpeg_coding(image: JpegImagePlugin.JpegImageFile) -> _Row:
    """Quality, kind of tables and chroma subsampling of a JPEG file.

    The tables are taken in the order in which the components use them, each once: luma comes first whatever
    its number, and a file whose components share one table is judged by that table alone.
    """
    components = image.layer  # (identifier, horizontal sampling, vertical sampling, table) each
    numbers = list(dict.fromkeys(component[3] for component in components))
    row: _Row = {"subsampling": _subsampling([(component[1], component[2]) for component in components])}
    if numbers and all(number in image.quantization for number in numbers):
        tables = tuple(tuple(image.quantization[number]) for number in numbers)
        row["quality"], row["standard_tables"] = _judge_tables(tables)
        row["tables"] = hashlib.sha256(repr(tables).encode()).hexdigest()[:8]
    return row


@lru_cache(maxsize=1024)
def _judge_tables(tables: tuple[tuple[int, ...], ...]) -> tuple[int, bool]:
    """Quality of tables and whether they are standard, remembered: a data set knows few tables."""
    return estimate_quality(tables)


def _subsampling(factors: Sequence[tuple[int, int]]) -> str:
    """Name of a JPEG's chroma format from the (horizontal, vertical) sampling factors of its components."""
    if len(factors) == 1:
        return "gray"
    (luma_x, luma_y), (chroma_x, chroma_y) = factors[0], factors[1]
    whole = luma_x % chroma_x == 0 and luma_y % chroma_y == 0
    alike = all(factor == factors[1] for factor in factors[2:3])
    name = _SUBSAMPLINGS.get((luma_x // chroma_x, luma_y // chroma_y)) if whole and alike else None
    return name or ",".join(f"{x}x{y}" for x, y in factors)


def _reason(error: Exception) -> str:
    """One line that says what is wrong with a file."""
    if isinstance(error, UnidentifiedImageError):
        return "unreadable: not an image in a known format, or its header is damaged"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"too large: more than {Image.MAX_IMAGE_PIXELS} pixels"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{'truncated' if 'truncated' in text.lower() else 'corrupt'}: {text}"


def _frame(rows: Sequence[_Row]) -> pd.DataFrame:
    """Rows as a table with the cache's columns and types."""
    names = list(_CACHE_DTYPES)
    values = [[row.get(name) for name in names] for row in rows]
    return pd.DataFrame(values, columns=names, dtype="object").astype(_CACHE_DTYPES)


def _reusable(known: pd.DataFrame, root: Path, paths: Sequence[str], verify_pixels: bool) -> pd.Series[bool]:
    """Which rows of the cache still hold: wanted, unchanged on disk, and verified if that is asked for."""
    wanted = set(paths)

    def holds(path: str, size: int, mtime_ns: int) -> bool:
        if path not in wanted:
            return False
        try:
            status = os.stat(root / path)
        except OSError:
            return False
        return status.st_size == size and status.st_mtime_ns == mtime_ns

    unchanged = [holds(*key) for key in zip(known["path"], known["bytes"], known["mtime_ns"], strict=True)]
    return pd.Series(unchanged, index=known.index, dtype=bool) & (known["verified"].astype(bool) | (not verify_pixels))


def _read_cache(cache: Path | None) -> pd.DataFrame:
    """Earlier results; an empty table where there is no cache or it cannot be trusted."""
    if cache is None or not cache.exists():
        return _frame([])
    try:
        frame = pd.read_csv(
            cache, dtype=_CACHE_DTYPES, keep_default_na=False, na_values=[""], encoding_errors="surrogateescape"
        )
        if tuple(frame.columns) != tuple(_CACHE_DTYPES):
            raise ValueError("other columns than this version writes")
        if frame[["path", "bytes", "sha256", "mtime_ns", "verified"]].isna().any(axis=None):
            raise ValueError("missing values")
        if frame["path"].duplicated().any():
            raise ValueError("repeated paths")
    except (OSError, ValueError) as error:  # pandas' parser and unicode errors are ValueErrors
        logger.warning("scan cache %s is ignored and will be rewritten: %s", cache, " ".join(str(error).split()))
        return _frame([])
    text = [name for name, dtype in _CACHE_DTYPES.items() if dtype == "object"]
    frame[text] = frame[text].where(frame[text].notna(), None)
    return frame


def _write_cache(cache: Path, known: pd.DataFrame, fresh: pd.DataFrame) -> None:
    """Replace the cache by the union of old and new results, at once or not at all."""
    readable = fresh[fresh["sha256"].notna()]  # a missing or forbidden file has nothing to be keyed by
    merged = pd.concat([known[~known["path"].isin(set(fresh["path"]))], readable])
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=cache.name, suffix=".tmp", dir=cache.parent)
        os.close(handle)
        try:
            merged.to_csv(name, index=False, errors="surrogateescape")
            os.replace(name, cache)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:  # a read-only folder costs the cache, not the scan
        logger.warning("scan cache %s cannot be written: %s", cache, error)


def format_report(frame: pd.DataFrame) -> str:
    """The files of a scan that cannot be used, as text.

    Args:
        frame: a scan, with the columns `path` and `error`.

    Returns:
        A line with the count, then one indented line per bad file with its reason.
    """
    bad = frame[frame["error"].notna()]
    if bad.empty:
        return f"all {len(frame)} files can be read"
    lines = [f"  {path}: {error}" for path, error in zip(bad["path"], bad["error"], strict=True)]
    return "\n".join([f"{len(bad)} of {len(frame)} files cannot be used:", *lines])


def write_report(frame: pd.DataFrame, path: Path) -> None:
    """Write the files of a scan that cannot be used to a CSV with the columns `path`, `error` and `bytes`.

    Args:
        frame: a scan, with those columns.
        path: the CSV to write; folders on the way are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.loc[frame["error"].notna(), ["path", "error", "bytes"]].to_csv(path, index=False, errors="surrogateescape")
