"""Still frames of video files, written once and losslessly, so that everything else works on image files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.manifest import ManifestError

__all__ = ["VIDEO_SUFFIXES", "extract_frames", "list_videos"]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def list_videos(root: Path) -> list[str]:
    """Video files below a folder, relative to it, sorted, by suffix; hidden folders are left out."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        place = Path(folder).relative_to(root)
        found += [(place / name).as_posix() for name in files if name.lower().endswith(VIDEO_SUFFIXES)]
    return sorted(found)


def extract_frames(root: Path, videos: Sequence[str], target: Path, frames_per_video: int) -> None:
    """Write evenly spaced frames of every video as ``<target>/<video>/<frame number>.png``.

    Videos whose frames are there already, and newer than the file, are left alone. A video's folder appears when it is
    complete.

    Args:
        root: folder of the videos.
        videos: files, relative to it.
        target: folder of the frames, created if need be.
        frames_per_video: frames of each video; all of a shorter one.

    Raises:
        ManifestError: if PyAV is not installed, or a file cannot be decoded.
    """
    missing = [video for video in videos if not _is_done(root / video, target / video)]
    if not missing:
        return
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ManifestError(
            f"{root} holds video files, e.g. {missing[0]}; to read them install PyAV: pip install 'truelight[video]'. "
            "Or extract the frames yourself, a folder for each video."
        ) from error
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # FFmpeg works without holding the interpreter
        jobs = pool.map(lambda video: _extract(root / video, target / video, frames_per_video), missing)
        for _ in tqdm(jobs, total=len(missing), desc="Extracting frames", unit="video", leave=False):
            pass


def _is_done(video: Path, folder: Path) -> bool:
    """Whether the frames are there, and are not those of an earlier file of that name."""
    return folder.is_dir() and folder.stat().st_mtime_ns >= video.stat().st_mtime_ns


def _extract(video: Path, folder: Path, count: int) -> None:
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        wanted = _evenly(_frame_count(video), count)
        written = 0
        for number, frame in enumerate(_frames(video)):
            if number in wanted:
                frame.to_image().save(unfinished / f"{number:06d}.png")
                written += 1
        if not written:
            raise ManifestError(f"{video} has no video frames; restore or remove it.")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    except ManifestError:
        raise
    except Exception as error:  # FFmpeg's errors are of many types
        raise ManifestError(f"{video}: cannot be decoded ({error}); restore or remove it.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _frame_count(video: Path) -> int:
    """Number of frames, counted by packets: headers may lie, and decoding takes longer."""
    import av

    with av.open(str(video)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _frames(video: Path) -> Any:
    import av

    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(video=0)


def _evenly(total: int, count: int) -> set[int]:
    """Numbers of ``count`` frames, each in the middle of an equal part of ``total``; all if there are fewer."""
    if total <= count:
        return set(range(total))
    return {(2 * part + 1) * total // (2 * count) for part in range(count)}
