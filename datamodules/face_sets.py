"""The face data sets of Durall et al. 2019 in the folder layouts in which they are published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datamodules.manifest import OWN_COLUMNS, ManifestError, existing_root
from datamodules.scan import list_images
from datamodules.spectrum_data import SpectrumDataModule
from datamodules.video_files import list_videos
from datamodules.video_frames import VideoSpectraDataModule
from functional.spectrum import RadialSpectrum

__all__ = ["CelebARealFakeDataModule", "FaceForensicsDataModule", "FacesHQDataModule"]

_FACES_HQ = {
    "real": ("CelebA-HQ", "celebA-HQ_10K", "FFHQ", "flickr_faces", "Flickr-Faces-HQ_10K"),
    "fake": ("100KFaces", "100KFaces_10K", "thispersondoesnotexist", "thispersondoesntexists_10K"),
}
_SPLITS = {"train": "train", "val": "val", "test": "test"}


class FacesHQDataModule(SpectrumDataModule):
    """Faces-HQ: four folders of 10,000 JPEGs of 1024 x 1024 pixels; two of photographs, two of generated faces.

    The published spectra are whole rings of the whole image (722 of them), neither resampled nor divided, which is what
    ``spectrum`` is by default here. Folders are known by their names, in any case and with or without ``_10K``:
    CelebA-HQ and Flickr-Faces-HQ (or FFHQ) are real, 100KFaces and thispersondoesnotexist fake; others are named with
    ``real_folders`` and ``fake_folders``.

    Args:
        root: folder that holds the four.
        spectrum: the spectrum; by default the published one, whole rings.
        kwargs: as for :class:`SpectrumDataModule`.
    """

    def __init__(self, root: str = "data/Faces-HQ", spectrum: RadialSpectrum | None = None, **kwargs: Any) -> None:
        super().__init__(root=root, spectrum=spectrum or RadialSpectrum(), **kwargs)

    def build_manifest(self) -> pd.DataFrame:
        """Table of the images of all folders that are known."""
        root = existing_root(self.root)
        if not (self.real_folders or self.fake_folders):
            folders = [folder.name for folder in sorted(root.iterdir()) if folder.is_dir()]
            known = {name: _label_of(name) for name in folders}
            self.real_folders = [name for name, label in known.items() if label == 0]
            self.fake_folders = [name for name, label in known.items() if label == 1]
            if not (self.real_folders and self.fake_folders):
                raise ManifestError(
                    f"data.root={root} holds {folders[:6] or 'no folders'}; Faces-HQ has CelebA-HQ, Flickr-Faces-HQ, "
                    "100KFaces and thispersondoesnotexist. Name others with data.real_folders and data.fake_folders."
                )
        return super().build_manifest()


class CelebARealFakeDataModule(SpectrumDataModule):
    """CelebA photographs against generated faces, two folders.

    The published fakes have 128 x 128 pixels and the photographs 178 x 218: size alone tells them apart. Set
    ``common_size`` and ``fake_quality`` with ``reencode_reals`` before you believe a number.

    Args:
        root: folder that holds both.
        real_folders: folders of photographs below ``root``, ``img_align_celeba`` by default.
        fake_folders: folders of generated faces below ``root``, ``dataset_celebA`` by default.
        kwargs: as for :class:`SpectrumDataModule`.
    """

    def __init__(
        self,
        root: str = "data/celeba",
        real_folders: str | list[str] = "img_align_celeba",
        fake_folders: str | list[str] = "dataset_celebA",
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, real_folders=real_folders, fake_folders=fake_folders, **kwargs)


class FaceForensicsDataModule(VideoSpectraDataModule):
    """FaceForensics++ and DeepFakeDetection, frames or videos, split by person.

    ``root`` holds ``original_sequences/{youtube,actors}/<compression>/{videos,images}/`` and
    ``manipulated_sequences/<method>/<compression>/{videos,images}/``, and below them a folder of frames or a file for
    each video. Frames are taken where there are any. Videos that share a person's number are kept together: of
    ``033_097`` all that is made of 033 or of 097; of DeepFakeDetection's ``01_02__...``, where everyone has been
    swapped with nearly everyone, those whose body is actor 01's. Where ``root`` has the published ``train.json``,
    ``val.json`` and ``test.json``, youtube's videos follow them.

    Args:
        root: folder that holds both kinds of sequences.
        methods: manipulations to take, e.g. ``[Deepfakes]``; all by default. DeepFakeDetection brings the actors as its
            reals, the others bring youtube.
        compression: ``raw`` (or ``c0``), ``c23`` or ``c40``.
        kwargs: as for :class:`VideoSpectraDataModule`, but for ``group_pattern``.
    """

    def __init__(
        self,
        root: str = "data/FaceForensics++",
        methods: list[str] | None = None,
        compression: str = "c23",
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, **kwargs)
        self.methods, self.compression = methods, compression
        folder = Path(root).expanduser()
        if any(folder.glob(f"*_sequences/*/{compression}/images")):
            self.video_root, self.root = None, folder

    def wanted_videos(self, root: Path) -> list[str]:
        """Videos of the compression, and of the methods with their reals."""
        found = [(_frame(f"{video}/0", self.compression), video) for video in list_videos(root)]
        methods = {"youtube", "actors", *self.methods} if self.methods else None
        return [video for row, video in found if row is not None and (methods is None or row[1] in methods)]

    def build_manifest(self) -> pd.DataFrame:
        """Table of the frames of the chosen manipulations and of their reals.

        Raises:
            ManifestError: if the layout is not there, or a method is not.
        """
        root = existing_root(self.root)
        rows = [row for path in list_images(root) if (row := _frame(path, self.compression)) is not None]
        table = pd.DataFrame(rows, columns=["path", "method", "video"])
        known = sorted(set(table["method"]) - {"youtube", "actors"})
        unknown = sorted(set(self.methods or []) - set(known))
        if table.empty or unknown:
            raise ManifestError(
                f"data.root={self.video_root or root}, data.compression={self.compression}: no frames of "
                f"{unknown or 'any sequence'} in manipulated_sequences/<method>/{self.compression}/(images|videos)/; "
                f"there are {known or 'none'}."
            )
        methods = self.methods or known
        sources = {"actors" if method == "DeepFakeDetection" else "youtube" for method in methods}
        table = table[table["method"].isin([*methods, *sources])].reset_index(drop=True)
        is_real = table["method"].isin(["youtube", "actors"])
        return pd.DataFrame(
            {
                "path": table["path"],
                "label": (~is_real).astype("int64"),
                "generator": table["method"].mask(is_real, "real"),
                "class": None,
                "split": _given_splits(self.video_root or root, table),
                "group": _people(table),
            },
            columns=list(OWN_COLUMNS),
        )


def _label_of(folder: str) -> int | None:
    """0 for a folder of Faces-HQ's photographs, 1 for one of its fakes, None for others."""

    def plain(name: str) -> str:
        return "".join(character for character in name.lower().removesuffix("_10k") if character.isalnum())

    for label, names in enumerate(_FACES_HQ.values()):
        if plain(folder) in {plain(name) for name in names}:
            return label
    return None


def _frame(path: str, compression: str) -> tuple[str, str, str] | None:
    """Path, method and video of a frame in the published layout; None for other files."""
    parts = path.split("/")
    if len(parts) < 6 or parts[-6] not in ("original_sequences", "manipulated_sequences"):
        return None
    method, level, kind, video = parts[-5:-1]
    accepted = {"raw", "c0"} if compression in ("raw", "c0") else {compression}
    if level not in accepted or kind not in ("images", "videos"):
        return None
    return path, method, video.rsplit(".", 1)[0] if kind == "videos" else video


def _persons(method: str, video: str) -> list[str]:
    """Names of the people that keep a video together with others."""
    numbers = video.split("__")[0].split("_")
    if method in ("actors", "DeepFakeDetection"):
        return [f"actor {numbers[0]}"]
    return [f"youtube {number}" for number in numbers]


def _people(table: pd.DataFrame) -> list[str]:
    """Group of each frame: videos that share a person, directly or through others, have one."""
    videos = table[["method", "video"]].drop_duplicates()
    people = [_persons(method, video) for method, video in videos.itertuples(index=False)]
    names = sorted({name for of_video in people for name in of_video})
    number = {name: index for index, name in enumerate(names)}
    pairs = np.array([(number[of_video[0]], number[name]) for of_video in people for name in of_video])
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(names), len(names)))
    component = connected_components(graph.tocsr(), directed=False)[1]
    first: dict[int, str] = {}
    for name, label in zip(names, component.tolist(), strict=True):
        first.setdefault(label, name)
    group = {
        key: first[component[number[of_video[0]]]]
        for key, of_video in zip(videos.itertuples(index=False, name=None), people, strict=True)
    }
    return [group[key] for key in zip(table["method"], table["video"], strict=True)]


def _given_splits(root: Path, table: pd.DataFrame) -> Sequence[str | None]:
    """Split of each frame by the published lists of pairs, None without them and for the actors."""
    of_number: dict[str, str] = {}
    for name, split in _SPLITS.items():
        file = root / f"{name}.json"
        if file.is_file():
            pairs = json.loads(file.read_text(encoding="utf-8"))
            of_number |= {str(number): split for pair in pairs for number in pair}
    own = table["method"].isin(["actors", "DeepFakeDetection"])
    numbers = table["video"].str.split("_").str[0].mask(own)
    return [of_number.get(number) for number in numbers]
