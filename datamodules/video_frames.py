"""Frames of videos: whole videos lie in one split."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.manifest import ManifestError
from datamodules.real_fake import RealFakeDataModule
from datamodules.spectrum_data import SpectrumDataModule
from datamodules.video_files import extract_frames, list_videos

__all__ = ["VideoFramesDataModule", "VideoSpectraDataModule"]


class VideoFramesDataModule(RealFakeDataModule):
    """Frames of real and fake videos as images, split by video.

    ``root`` holds class folders as for :class:`RealFakeDataModule`, and in them a folder of frames for each video, or
    video files, whose frames are then written to the cache (with PyAV, ``pip install 'truelight[video]'``). Faces are
    not looked for: cut them out before. The callback ``VideoVerdicts`` judges whole videos.

    Args:
        root: folder of frames or of video files.
        frames_per_video: frames taken from each video file, evenly spaced.
        group_pattern: regular expression for what keeps videos together, e.g. ``/([0-9]+)_`` for a person's number: its
            first match in a video's path, or the first bracketed part of that. By default each video is on its own.
        kwargs: as for :class:`RealFakeDataModule`.
    """

    def __init__(
        self, root: str = "data", frames_per_video: int = 32, group_pattern: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(root=root, **kwargs)
        if frames_per_video < 1:
            raise ValueError(f"data.frames_per_video={frames_per_video} must be at least 1.")
        self.frames_per_video = frames_per_video
        self.group_pattern = re.compile(group_pattern) if group_pattern else None
        self.video_root = self.root if self.root.is_dir() and list_videos(self.root) else None
        if self.video_root is not None:
            self.root = self._frame_folder(self.video_root)

    def prepare_data(self) -> None:
        """Write the frames of video files, then scan them."""
        if self._predicting():
            root = self.predict_root
            if root is not None and root.is_dir() and (videos := list_videos(root)):
                extract_frames(root, videos, self._frame_folder(root), self.frames_per_video)
        elif self.video_root is not None:
            extract_frames(self.video_root, self.wanted_videos(self.video_root), self.root, self.frames_per_video)
        super().prepare_data()

    def setup(self, stage: str) -> None:
        """Build the data sets of a stage."""
        if stage == "predict" and self.predict_root is not None and self._frame_folder(self.predict_root).is_dir():
            self.predict_root = self._frame_folder(self.predict_root)
        super().setup(stage)

    def wanted_videos(self, root: Path) -> list[str]:
        """Video files below ``root`` whose frames are needed, relative to it."""
        return list_videos(root)

    def build_manifest(self) -> pd.DataFrame:
        """Table of all frames with the video, or what the pattern finds in its path, as ``group``."""
        manifest = super().build_manifest()
        videos = manifest["path"].str.rsplit("/", n=1).str[0]
        return manifest.assign(group=manifest["group"].where(manifest["group"].notna(), videos.map(self.group_of)))

    def group_of(self, video: str) -> str:
        """What keeps a video together with others.

        Args:
            video: path of its frames, relative to the root.

        Returns:
            Name of the group.

        Raises:
            ManifestError: if the pattern does not match.
        """
        if self.group_pattern is None:
            return video
        found = self.group_pattern.search(f"/{video}")
        if found is None:
            raise ManifestError(
                f"data.group_pattern={self.group_pattern.pattern!r} finds nothing in /{video}; every video needs a "
                "group."
            )
        return found[1] if found.groups() else found[0]

    def _frame_folder(self, videos: Path) -> Path:
        """Folder of the cache for the frames of a folder of videos."""
        key = hashlib.sha256(f"{videos.absolute()}\0{self.frames_per_video}".encode()).hexdigest()[:16]
        return self.cache_dir / "frames" / f"{videos.name}-{key}"


class VideoSpectraDataModule(VideoFramesDataModule, SpectrumDataModule):
    """Spectra of the frames of real and fake videos, split by video.

    As :class:`VideoFramesDataModule`, with spectra in place of images; ``spectrum.central_third`` looks at the middle
    third of each frame, as the paper does.

    Args:
        root: folder of frames or of video files.
        frames_per_video: frames taken from each video file, evenly spaced.
        group_pattern: as for :class:`VideoFramesDataModule`.
        kwargs: as for :class:`SpectrumDataModule`.
    """

    def __init__(
        self, root: str = "data", frames_per_video: int = 32, group_pattern: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(root=root, frames_per_video=frames_per_video, group_pattern=group_pattern, **kwargs)
