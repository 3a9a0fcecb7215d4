"""Attacked images on disk: ``.npz`` files of pairs, image and attacked image, with the settings that made them.

::

    <folder>/<attack>/00000.npz    one batch of the attacked data set: its successes
    <folder>/reference.npz         images that the victim was trained on, for the statistics of the baselines
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PairFolder", "Pairs", "load_reference", "save_reference"]

REFERENCE = "reference.npz"


@dataclass(frozen=True)
class Pairs:
    """Successful attacks, one row each.

    Attributes:
        image: before the attack, float32 in [0, 1], shape ``(N, C, H, W)``.
        attacked: after it, same type and shape.
        label: true class, which the victim gave the image, shape ``(N,)``.
        prediction: class that it gives the attacked image, shape ``(N,)``.
        number: place of the image in the attacked data set, shape ``(N,)``.
    """

    image: NDArray[np.float32]
    attacked: NDArray[np.float32]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    number: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Any) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))

    def parts(self, seed: int, val_fraction: float = 0.16, test_fraction: float = 0.2) -> dict[str, NDArray[np.int64]]:
        """Rows of ``train``, ``val`` and ``test``, drawn by the number of the image.

        A pair stays together, and an image is in the same part for every attack and every folder of pairs made from
        the same data set: a detector trained on one attack has seen no test image of another.

        Args:
            seed: of the draw.
            val_fraction: expected share of ``val``.
            test_fraction: expected share of ``test``.

        Raises:
            ValueError: if a part is left empty.
        """
        draw = np.random.default_rng(seed).random(int(self.number.max(initial=-1)) + 1)[self.number]
        part = np.digitize(draw, [test_fraction, test_fraction + val_fraction])
        rows = {name: np.flatnonzero(part == index) for index, name in enumerate(("test", "val", "train"))}
        empty = [name for name, chosen in rows.items() if not len(chosen)]
        if empty:
            raise ValueError(f"{len(self)} pairs leave no image for {', '.join(empty)}; attack more images.")
        return rows


class PairFolder:
    """The pairs of one attack; written batch by batch, so that an interrupted attack goes on.

    Args:
        folder: where the files are.
        settings: plain values that decide about the result; None takes whatever is there.

    Raises:
        ValueError: if the folder holds pairs of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder, self.settings = folder, settings
        if settings is not None and self.files:
            with _opened(self.files[0]) as arrays:
                before = json.loads(str(arrays["settings"]))
            changed = [key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key)]
            if changed:
                key = sorted(changed)[0]
                raise ValueError(
                    f"{folder} holds pairs with {key}={before.get(key)!r}, not {settings.get(key)!r}. Give other pairs "
                    "another folder, or delete this one."
                )

    @property
    def files(self) -> list[Path]:
        """Files of batches, in order."""
        return sorted(self.folder.glob("[0-9]*.npz"))

    def has(self, batch: int) -> bool:
        """Whether a batch was attacked earlier."""
        return (self.folder / f"{batch:05d}.npz").is_file()

    def write(self, batch: int, pairs: Pairs, tried: int) -> None:
        """Store the successes of a batch of which ``tried`` images were attacked; all or nothing is written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {field.name: getattr(pairs, field.name) for field in fields(pairs)}
        unfinished = self.folder / f".{batch:05d}.npz"
        np.savez_compressed(
            unfinished, **arrays, tried=np.int64(tried), settings=np.array(json.dumps(self.settings, sort_keys=True))
        )
        os.replace(unfinished, self.folder / f"{batch:05d}.npz")

    def read(self) -> tuple[Pairs, int]:
        """All pairs, and how many images were attacked.

        Raises:
            FileNotFoundError: if there are none.
        """
        if not self.files:
            raise FileNotFoundError(
                f"There are no attacked images in {self.folder}. Make them with "
                "`python -m studies.spectral_defense attack`."
            )
        parts, tried = [], 0
        for file in self.files:
            with _opened(file) as arrays:
                parts.append([arrays[field.name] for field in fields(Pairs)])
                tried += int(arrays["tried"])
        return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True))), tried

    def check_victim(self, fingerprint: str) -> None:
        """Refuse pairs that were made with another classifier.

        Args:
            fingerprint: of the classifier at hand, as in the settings of the pairs.

        Raises:
            ValueError: if the pairs state another one.
        """
        for file in self.files[:1]:
            with _opened(file) as arrays:
                made_with = json.loads(str(arrays["settings"])).get("victim")
            if made_with not in (None, fingerprint):
                raise ValueError(
                    f"{self.folder} holds pairs of another victim ({made_with}, not {fingerprint}). Name the config "
                    "that they were made with, or make others with `studies.spectral_defense attack`."
                )

    def counts(self) -> tuple[int, int]:
        """Numbers of successes and of attacked images."""
        found = tried = 0
        for file in self.files:
            with _opened(file) as arrays:
                found, tried = found + len(arrays["label"]), tried + int(arrays["tried"])
        return found, tried


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Arrays of a file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(
            f"{file} is damaged ({error}). Delete it; `studies.spectral_defense attack` makes it again."
        ) from error


def save_reference(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Store images that the victim was trained on, uint8 ``(N, C, H, W)``, with their classes ``(N,)``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / REFERENCE, image=images, label=labels)


def load_reference(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``(N, C, H, W)`` and classes ``(N,)`` that :func:`save_reference` stored.

    Raises:
        FileNotFoundError: if there are none.
    """
    if not (folder / REFERENCE).is_file():
        raise FileNotFoundError(
            f"There is no {folder / REFERENCE}, which Mahalanobis and LID features need. Make it with "
            "`python -m studies.spectral_defense attack`."
        )
    with _opened(folder / REFERENCE) as arrays:
        return arrays["image"], arrays["label"]
