"""Write the procedural GenImage: real files, in the real layout, with the real bias.

Natures are JPEG files of quality 96 and many sizes, fakes are PNG files of one size for each generator, exactly the
two nuisances of GenImage that "Fake or JPEG?" (Grommelt et al. 2024) removes. Underneath, every fake carries the
trace of its generator's up-sampling chain (see `generators`).
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.synthetic.generators import GENERATORS, Generator
from datamodules.synthetic.scenes import Camera, SceneClass, render_scene

__all__ = ["DEFAULT_GENERATORS", "NUM_CLASSES", "QUALITY", "write_procedural_genimage"]

DEFAULT_GENERATORS: tuple[str, ...] = tuple(GENERATORS)
NUM_CLASSES = 10
QUALITY = 96  # of nearly every JPEG in ImageNet

_WORLD_VERSION = 1  # raise it when the pixels of a world with the same parameters change
_PARAMETERS_FILE = "world.json"
_IN_WINDOW_SHARE = 0.65  # of a folder's natures, so that a size-constrained selection leaves enough of them
_SIDES = (130, 300)  # bounds of the other natures' sides
_ASPECTS = (1.0, 4 / 3, 3 / 2, 3 / 4, 2 / 3)
_COLUMNS = ("path", "generator", "class", "mode", "width", "height", "compression_rate")

_Row = tuple[str | int, ...]  # of metadata.csv


@dataclass(frozen=True)
class _World:
    """The arguments that decide what the files hold, checked; `train` has a count for every generator."""

    train: dict[str, int]
    val: int
    seed: int

    def parameters(self) -> dict[str, object]:
        """Everything the files depend on, in the types that JSON gives back."""
        recipes = {name: [GENERATORS[name].size, GENERATORS[name].strength] for name in self.train}
        everything = {**asdict(self), "generators": recipes, "camera": asdict(Camera()), "version": _WORLD_VERSION}
        plain: dict[str, object] = json.loads(json.dumps(everything))
        return plain


@dataclass(frozen=True)
class _Job:
    """One image to write; knows its own seed, so the order and the process it is written in do not matter."""

    root: str
    generator: str
    mode: str
    label: str
    index: int
    seed: int

    @property
    def class_id(self) -> int:
        return self.index % NUM_CLASSES

    @property
    def relative_path(self) -> str:
        name = f"n{self.class_id:03d}_{self.index:06d}.JPEG"
        if self.label == "ai":
            name = f"{self.class_id:03d}_ai_{self.index:06d}.png"
        return f"{self.generator}/imagenet_{self.generator}/{self.mode}/{self.label}/{name}"

    def rng(self) -> np.random.Generator:
        # Keyed by the folder's name rather than its position: adding a generator leaves the others' files unchanged.
        folder = zlib.crc32(f"{self.generator}/{self.mode}/{self.label}".encode())
        return np.random.default_rng(np.random.SeedSequence([self.seed, folder, self.index]))


def write_procedural_genimage(
    root: Path | str,
    *,
    train: int | Mapping[str, int],
    val: int,
    generators: Sequence[str] = DEFAULT_GENERATORS,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a procedural GenImage, or find the one already there.

    The tree is ``<root>/<generator>/imagenet_<generator>/{train,val}/{ai,nature}/<file>`` beside a ``metadata.csv``
    with the columns published for GenImage. The same arguments give byte-identical files, with any number of workers.
    The tree appears under its name only once it is complete.

    Args:
        root: folder to create.
        train: training images per class (ai, nature) and generator; a mapping names the generators that get any.
        val: validation images per class and generator.
        generators: names among `GENERATORS`, one folder each.
        seed: of every scene and every grain of noise.
        workers: processes; None takes one for each available core, 0 writes in this process.
        progress: show a progress bar.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: if ``root`` holds a world of other parameters or anything else, or a generator is unknown.
    """
    root = Path(root)
    world = _world(generators, train, val, seed)
    parameters = world.parameters()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        _check_same_world(root, parameters)
        return root
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        jobs = list(_jobs(partial, world))
        rows = _write_all(jobs, workers, progress)
        with (partial / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])
        (partial / _PARAMETERS_FILE).write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            root.rmdir()  # empty, or this would not have been reached
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _world(generators: Sequence[str], train: int | Mapping[str, int], val: int, seed: int) -> _World:
    """Check the arguments and write out how many training images each generator gets."""
    named = [*generators, *(train if isinstance(train, Mapping) else ())]
    unknown = sorted(set(named) - set(GENERATORS))
    if unknown:
        raise ValueError(f"Unknown generators {unknown}: choose among {sorted(GENERATORS)}.")
    if not generators or len(set(generators)) != len(generators) or not set(named) <= set(generators):
        raise ValueError("`generators` must name at least one, each once, and every generator that `train` names.")
    counts = {name: train.get(name, 0) if isinstance(train, Mapping) else train for name in generators}
    if min(val, *counts.values()) < 0:
        raise ValueError(f"Image counts cannot be negative: train {counts}, val {val}.")
    return _World(counts, val, seed)


def _check_same_world(root: Path, parameters: Mapping[str, object]) -> None:
    """Refuse a folder that is not the finished world of these parameters."""
    try:
        found = json.loads((root / _PARAMETERS_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{root} exists and holds no finished procedural GenImage: name another root, or delete this one."
        ) from error
    differing = sorted(key for key in {*found, *parameters} if found.get(key) != parameters.get(key))
    if differing:
        changes = "; ".join(f"{key}: {found.get(key)} there, {parameters.get(key)} asked" for key in differing)
        raise ValueError(
            f"{root} holds a procedural GenImage of other parameters ({changes}): name another root, or delete it."
        )


def _jobs(root: Path, world: _World) -> Iterator[_Job]:
    """The images of a world, folder by folder; makes the folders."""
    for generator, train in world.train.items():
        for mode, count in (("train", train), ("val", world.val)):
            for label in ("ai", "nature"):
                (root / generator / f"imagenet_{generator}" / mode / label).mkdir(parents=True)
                for index in range(count):
                    yield _Job(str(root), generator, mode, label, index, world.seed)


def _write_all(jobs: list[_Job], workers: int | None, progress: bool) -> list[_Row]:
    """Write all images and return their rows of the metadata, in the order of the jobs."""
    workers = _available_cores() if workers is None else workers
    if workers == 0:
        return list(_with_bar(map(_write_image, jobs), len(jobs), progress))
    # Forked workers start at once; spawned ones would import the caller's whole program first (torch, Lightning).
    # The workers touch neither, only NumPy, SciPy and Pillow.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
        return list(_with_bar(pool.map(_write_image, jobs, chunksize=8), len(jobs), progress))


def _with_bar(rows: Iterable[_Row], total: int, progress: bool) -> Iterable[_Row]:
    return tqdm(rows, total=total, desc="Drawing the procedural GenImage", unit="image", disable=not progress)


def _available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_image(job: _Job) -> _Row:
    """Draw and save one image; return its row of the metadata."""
    rng, camera, generator = job.rng(), Camera(), GENERATORS[job.generator]
    scene_class = SceneClass.of(job.class_id)
    path = Path(job.root) / job.relative_path
    if job.label == "ai":
        pixels = generator.generate(scene_class, camera, rng)
        # Noise does not compress: a higher level costs three times the time for a few per cent.
        Image.fromarray(pixels).save(path, compress_level=1)
    else:
        height, width = _nature_size(generator, rng)
        pixels = camera.shoot(render_scene(height, width, scene_class, rng), rng)
        Image.fromarray(pixels).save(path, "JPEG", quality=QUALITY, subsampling="4:2:0")
    height, width = pixels.shape[:2]
    name, quality = (job.generator, "") if job.label == "ai" else ("nature", str(QUALITY))
    return job.relative_path, name, job.class_id, job.mode, width, height, quality


def _nature_size(generator: Generator, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a photograph: mostly within the generator's window, otherwise any common format."""
    if rng.random() < _IN_WINDOW_SHARE:
        height, width = rng.integers(generator.size_window[0], generator.size_window[1] + 1, size=2).tolist()
        return height, width
    aspect = _ASPECTS[rng.integers(len(_ASPECTS))]
    long_side = rng.uniform(_SIDES[0] * max(aspect, 1 / aspect), _SIDES[1])
    height, width = (long_side, long_side / aspect) if aspect >= 1 else (long_side * aspect, long_side)
    return round(height), round(width)
