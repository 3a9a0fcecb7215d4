"""Real and generated images from any folder tree or CSV manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.audit.leaks import Leakage, measure
from datamodules.audit.view import View
from datamodules.base import ImageDataModule
from datamodules.image_dataset import Codec, ManifestDataset, Preparation
from datamodules.manifest import SPLIT_FOLDERS, ManifestError, add_scan, manifest_from_folder
from datamodules.manifest_csv import manifest_from_csv
from datamodules.scan import list_images, scan_images
from datamodules.selections import FakeQuality, Filter, Selection, named_selection, quality_histogram, select
from datamodules.splits import assign_splits

__all__ = ["RealFakeDataModule"]

logger = logging.getLogger("lightning.pytorch.datamodules")  # shown by Lightning's own handler, on rank zero's terminal


class RealFakeDataModule(ImageDataModule):
    """Real and generated images of any size and format, with seeded, group- and duplicate-safe splits.

    Folders named ``real``/``nature``/... and ``fake``/``ai``/... (see :func:`manifest_from_folder`), or a CSV with the
    columns ``path,label`` and optionally ``generator,class,split,group``. Files are scanned once; the scan is cached.

    Args:
        root: folder of the images; by default that of ``manifest``, or ``data``.
        manifest: CSV file to take instead of the folder tree; its paths are relative to ``root``.
        real_folders: folders below ``root`` that hold reals, whatever they are called; with ``fake_folders``.
        fake_folders: folders below ``root`` that hold fakes, one per generator.
        selection: which training and validation images to use: ``raw``, ``jpeg96``, ``quality_matched``,
            ``constrained`` (Grommelt et al. 2024), or a list of filters.
        quality: JPEG quality of the selections ``jpeg96`` and ``constrained``.
        size_window: smallest and largest side of the reals that ``constrained`` allows.
        fake_quality: JPEG quality that fakes are saved with before any crop, at native size (or, if there is one, at
            ``common_size``); ``matched`` draws from
            the reals' histogram; ``auto`` follows the selection; None leaves fakes as they are. For training and
            validation.
        common_size: side to which the short side of every image is resized before anything else, in all stages.
        reencode_reals: save reals with ``fake_quality`` too, and in all stages, so that every image has been through
            the same last codec.
        test_fake_qualities: conditions under which each test set is run: a number for fakes re-saved as JPEG of that
            quality, null for none. With ``reencode_reals`` null means ``fake_quality``, and reals follow the fakes.
        val_fraction: share of the images without a given split that become validation images.
        test_fraction: share that becomes test images.
        codec: where images are re-encoded, in either case only the part around the crop: on the ``device``, or by
            ``pillow`` in the workers; the pixels are the same. ``auto`` takes a GPU where there is one. What is
            resized after the codec, or kept in memory, is always done by Pillow.
        audit: what to do before training if format, size or codec give the label away with an AUROC above 0.6, see
            ``train.py audit``: ``warn``, ``refuse``, or ``off`` to not look.
        crop: how workers cut training images: ``random``, ``center``, or ``resized`` (a random part of 8 % to all of
            the area, resized to ``crop_size``).
        eval_resize: side to which the short side of evaluated images is resized before the centre crop.
        small_images: what to do with images smaller than the crop: ``refuse`` to run, ``pad`` by reflection, ``drop``.
        on_corrupt: ``skip`` unreadable files and list them in a report, or ``raise``.
        verify_pixels: decode every file during the scan, so that damage shows before training.
        cache_images: decode all images at the start, in parallel, and keep them in memory.
        cache_dir: folder of the scan's cache; ``~/.cache/truelight`` by default.
        predict_root: folder of images for ``predict``.
        kwargs: as for :class:`ImageDataModule`.
    """

    num_classes = 2

    def __init__(
        self,
        root: str | None = None,
        manifest: str | None = None,
        real_folders: str | list[str] | None = None,
        fake_folders: str | list[str] | None = None,
        selection: str | list[Filter] = "raw",
        quality: int = 96,
        size_window: tuple[int, int] = (450, 550),
        fake_quality: FakeQuality | Literal["auto"] = "auto",
        common_size: int | None = None,
        reencode_reals: bool = False,
        test_fake_qualities: tuple[int | None, ...] = (None,),
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        codec: Codec | Literal["auto"] = "auto",
        audit: Literal["warn", "refuse", "off"] = "warn",
        crop: Literal["random", "center", "resized"] = "random",
        eval_resize: int | None = None,
        small_images: Literal["refuse", "pad", "drop"] = "refuse",
        on_corrupt: Literal["skip", "raise"] = "skip",
        verify_pixels: bool = True,
        cache_images: bool = False,
        cache_dir: str | None = None,
        predict_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest_file = Path(manifest).expanduser() if manifest else None
        self.root = Path(root or (self.manifest_file.parent if self.manifest_file else "data")).expanduser()
        self.set_alignment(selection, quality, size_window, fake_quality, common_size, reencode_reals)
        self.real_folders = [real_folders] if isinstance(real_folders, str) else real_folders
        self.fake_folders = [fake_folders] if isinstance(fake_folders, str) else fake_folders
        self.test_fake_qualities = test_fake_qualities
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.codec, self.audit = codec, audit
        self.crop, self.eval_resize = crop, eval_resize
        self.small_images, self.on_corrupt, self.verify_pixels = small_images, on_corrupt, verify_pixels
        _check_qualities("test_fake_qualities", *test_fake_qualities)
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must leave some for training."
            )
        self.cache_images = cache_images
        default_cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "truelight"
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache
        self.predict_root = Path(predict_root).expanduser() if predict_root else None
        self.report_folder: Path | None = None  # the run's own by default
        self.manifest: pd.DataFrame | None = None
        self._scanned: pd.DataFrame | None = None
        self.selection_reports: dict[str, pd.DataFrame] = {}

    def set_alignment(
        self,
        selection: str | list[Filter] = "raw",
        quality: int = 96,
        size_window: tuple[int, int] = (450, 550),
        fake_quality: FakeQuality | Literal["auto"] = "auto",
        common_size: int | None = None,
        reencode_reals: bool = False,
    ) -> None:
        """Choose which images are used and what takes codec and size out of the label; arguments as for the class.

        Raises:
            ValueError: if they contradict one another or are out of range.
        """
        _check_qualities("quality", quality)
        _check_qualities("fake_quality", fake_quality)
        self.selection = (
            named_selection(selection, quality, size_window)
            if isinstance(selection, str)
            else Selection(tuple(selection))
        )
        self.fake_quality: FakeQuality = self.selection.fake_quality if fake_quality == "auto" else fake_quality
        if reencode_reals and not isinstance(self.fake_quality, int):
            raise ValueError(
                "data.reencode_reals needs one quality for both classes: set data.fake_quality, e.g. to 96."
            )
        if common_size is not None and common_size < self.crop_size:
            raise ValueError(f"data.common_size={common_size} is smaller than the crop of {self.crop_size} pixels.")
        self.common_size, self.reencode_reals = common_size, reencode_reals

    # --- what a subclass for another layout overrides -------------------------------------------------------------

    def build_manifest(self) -> pd.DataFrame:
        """Table of all images before the scan, with the columns of :mod:`datamodules.manifest`."""
        if self.manifest_file is not None:
            return manifest_from_csv(self.manifest_file, self.root)
        if self.real_folders or self.fake_folders:
            return _manifest_of_named_folders(self.root, self.real_folders or [], self.fake_folders or [])
        return manifest_from_folder(self.root)

    def training_rows(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """Rows that training and validation choose from."""
        return manifest

    def test_rows(self, manifest: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Rows of each named test set: all reals with the fakes of one generator."""
        reals, fakes = manifest[manifest["label"] == 0], manifest[manifest["label"] == 1]
        return {str(name): pd.concat([reals, rows]) for name, rows in fakes.groupby("generator", sort=True)}

    # --------------------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Scan and audit the files once; every process then reads the cache."""
        if self._predicting():
            return
        self._scanned = self._scanned_manifest(report=True)
        if self._is_audited():
            self._leakage()

    def setup(self, stage: str) -> None:
        """Build the data sets of a stage.

        Raises:
            ManifestError: if folders, labels, sizes or files are not as they should be; the message says what to do.
            SelectionError: if the selection leaves nothing.
        """
        if stage == "predict":
            self.predict_set = self._predict_set()
            return
        manifest = self.split_manifest()
        if stage == "fit" and self._is_audited():
            self._judge(self._leakage())
        if stage in ("fit", "validate"):
            self._setup_training(manifest)
        if stage == "test":
            self._setup_test(manifest[manifest["split"] == "test"])

    def split_manifest(self) -> pd.DataFrame:
        """Table of all usable images, scanned and split; remembered."""
        if self.manifest is None:
            manifest = self._scanned if self._scanned is not None else self._scanned_manifest(report=False)
            # Reals are stratified over the folders they share with a generator, where there are such folders.
            strata = manifest.assign(generator=manifest.get("subset", manifest["generator"]))
            fractions = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
            self.manifest = manifest.assign(split=assign_splits(strata, **fractions, seed=self.seed)["split"])
        return self.manifest

    def select_rows(self, manifest: pd.DataFrame, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows of the ``train`` or ``val`` split that the selection keeps, and the report of what it did."""
        return select(self.unselected_rows(manifest, split), self.selection.filters, self.seed)

    def unselected_rows(self, manifest: pd.DataFrame, split: str) -> pd.DataFrame:
        """Rows of the ``train`` or ``val`` split that the selection chooses from."""
        rows = self.training_rows(manifest)
        part = rows[rows["split"] == split]
        _need_both_labels(part, f"the {split} split of {self.root}", "data.val_fraction")
        return part

    def with_codec(self, preparation: Preparation, train_rows: pd.DataFrame) -> Preparation:
        """What training and validation do to fakes, added to what all stages do."""
        if self.fake_quality == "matched":
            return replace(preparation, quality_shares=quality_histogram(train_rows))
        return preparation if self.fake_quality is None else replace(preparation, quality=self.fake_quality)

    @property
    def source(self) -> str:
        """What the images are, for reports."""
        folders = [*(self.real_folders or []), *(self.fake_folders or [])]
        return f"{self.manifest_file or self.root}" + (f": {', '.join(folders)}" if folders else "")

    def training_view(self, name: str = "as trained") -> View:
        """The training images as they are selected and aligned."""
        rows, _ = self.select_rows(self.split_manifest(), "train")
        return View(name, rows, self.root, self.with_codec(self._preparation(self.crop_size), rows))

    def files_view(self) -> View:
        """All files as they lie on the disk."""
        return View("files", self.split_manifest(), self.root, Preparation(self.crop_size), whole=True)

    def _is_audited(self) -> bool:
        trainer = self.trainer
        fitting = trainer is not None and trainer.state.fn == "fit" and not getattr(trainer, "fast_dev_run", False)
        return fitting and self.audit != "off"

    def _leakage(self) -> Leakage:
        """What gives the labels of the training images away; measured once, then read from the cache."""
        view = self.training_view()
        digest = hashlib.sha256(repr((view.preparation, view.rows.shape)).encode())
        digest.update(view.rows[["path", "label", "sha256"]].to_csv(index=False).encode(errors="surrogateescape"))
        file = self.cache_dir / f"audit-{digest.hexdigest()[:24]}.json"
        if file.is_file():
            try:
                return Leakage.from_dict(json.loads(file.read_text()))
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("audit cache %s is ignored: %s", file, error)
        leakage, _, _ = measure(view, per_label=100, spectrum=False)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(leakage.as_dict()))
        except OSError as error:  # a read-only folder costs the cache, not the run
            logger.warning("audit cache %s cannot be written: %s", file, error)
        return leakage

    def _judge(self, leakage: Leakage) -> None:
        """Warn of a shortcut, or refuse it."""
        if leakage.worst is None:
            return
        name, leak = leakage.worst
        details = ["format", "quality", "chroma", "tables", "size", "colour", "codec"]
        if leakage.leaks["format"].leaks:  # then the next three are no news
            details = ["format", "size", "colour", "codec"]
        causes = [key for key in details if leakage.leaks[key].leaks]
        message = (
            f"The labels of {self.root} can be told without looking at the pictures: {', '.join(causes)} "
            f"({name} AUROC {leak}). A detector learns that first. `python train.py audit` with the same --data "
            "options shows where it lies and writes the settings that take it out; data.audit=off silences this."
        )
        if self.audit == "refuse":
            raise ManifestError(message)
        rank_zero_warn(message)

    def _setup_training(self, manifest: pd.DataFrame) -> None:
        chosen: dict[str, pd.DataFrame] = {}
        for split in ("train", "val"):
            chosen[split], self.selection_reports[split] = self.select_rows(manifest, split)
            if self.selection.filters:
                counts = self.selection_reports[split].to_string(index=False)
                logger.info("Selection of the %s split:\n%s", split, counts)
        train = self.with_codec(self._preparation(self.crop_size, crop=self.crop), chosen["train"])
        crop_first = self.crop_size if self.eval_resize and self.crop != "resized" else None
        val = self._preparation(self.image_size, crop_first=crop_first, resize=self.eval_resize)
        self.train_set = self._dataset(chosen["train"], train, self.cache_images)
        self.val_set = self._dataset(chosen["val"], self.with_codec(val, chosen["train"]), self.cache_images)

    def _setup_test(self, manifest: pd.DataFrame) -> None:
        if manifest.empty:
            raise ManifestError(f"{self.root} has no test images: raise data.test_fraction, or name a test split.")
        self.test_sets = {}
        for name, rows in self.test_rows(manifest).items():
            for quality in self.test_fake_qualities:
                preparation = self._preparation(self.image_size, resize=self.eval_resize)
                if quality is not None:
                    preparation = replace(preparation, quality=quality)
                label = name if quality is None else f"{name}@jpeg{quality}"
                self.test_sets[label] = self._dataset(rows, preparation, self.cache_images)

    def _preparation(self, crop_size: int, **kwargs: Any) -> Preparation:
        """What all stages share: the common size and, where reals are re-encoded too, the common codec."""
        quality = self.fake_quality if self.reencode_reals and isinstance(self.fake_quality, int) else None
        has_gpu = self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        codec: Codec = ("device" if has_gpu else "pillow") if self.codec == "auto" else self.codec
        return Preparation(
            crop_size,
            common_size=self.common_size,
            quality=quality,
            reencode_reals=self.reencode_reals,
            codec=codec,
            **kwargs,
        )

    def _dataset(self, rows: pd.DataFrame, preparation: Preparation, cached: bool = False) -> ManifestDataset:
        if preparation.resize is None and preparation.common_size is None and preparation.crop != "resized":
            rows = self._check_sizes(rows, preparation.crop_size)
        return ManifestDataset(rows, self.root, preparation, cached)

    def _check_sizes(self, rows: pd.DataFrame, size: int) -> pd.DataFrame:
        small = rows[["width", "height"]].min(axis=1) < size
        if not small.any() or self.small_images == "pad":
            return rows
        if self.small_images == "drop":
            logger.info("Dropped %d of %d images with a side below %d pixels.", small.sum(), len(rows), size)
            rows = rows[~small]
            _need_both_labels(rows, f"images of at least {size} pixels", "data.image_size")
            return rows
        first = rows[small].iloc[0]
        raise ManifestError(
            f"Image size mismatch: {small.sum()} of {len(rows)} images are smaller than the crop of {size} pixels, "
            f"e.g. {first['path']} with {first['width']} x {first['height']}. Lower data.image_size (or "
            "data.crop_size), set data.eval_resize and data.crop=resized, or set data.small_images to pad or drop."
        )

    def _scanned_manifest(self, report: bool) -> pd.DataFrame:
        manifest = self.build_manifest()
        key = hashlib.sha256(str(self.root.absolute()).encode()).hexdigest()[:16]
        scan = scan_images(
            self.root,
            manifest["path"].tolist(),
            cache=self.cache_dir / f"{self.root.name}-{key}.csv",
            verify_pixels=self.verify_pixels,
        )
        report_file = self._report_folder() / "corrupt_files.csv" if report else None
        manifest = add_scan(manifest, scan, on_corrupt=self.on_corrupt, report=report_file)
        _need_both_labels(manifest, str(self.root), "data.root")
        return manifest

    def _report_folder(self) -> Path:
        trainer = self.trainer
        if self.report_folder is not None:
            return self.report_folder
        return Path(trainer.default_root_dir) if trainer is not None and trainer.loggers else self.cache_dir

    def _predicting(self) -> bool:
        return self.trainer is not None and self.trainer.predicting

    def _predict_set(self) -> ManifestDataset:
        root = self.predict_root
        if root is None or not root.is_dir():
            raise ManifestError(f"data.predict_root={root}: give a folder of images to judge, --data.predict_root DIR.")
        paths = list_images(root)
        if not paths:
            raise ManifestError(f"data.predict_root={root} holds no images.")
        rows = pd.DataFrame({"path": paths, "label": -1, "generator": ""})
        scan = scan_images(root, paths, cache=None, verify_pixels=self.verify_pixels)
        rows = add_scan(rows, scan, self.on_corrupt, report=self._report_folder() / "corrupt_files.csv")
        return ManifestDataset(rows, root, self._preparation(self.image_size, resize=self.eval_resize))


def _manifest_of_named_folders(root: Path, real_folders: list[str], fake_folders: list[str]) -> pd.DataFrame:
    rows = []
    for key, label, folders in (("real_folders", 0, real_folders), ("fake_folders", 1, fake_folders)):
        if not folders:
            raise ManifestError(f"data.{key} is empty: name at least one folder for each class.")
        for folder in folders:
            if not (root / folder).is_dir():
                raise ManifestError(f"data.{key}: {root / folder} does not exist; folders are relative to data.root.")
            paths = list_images(root / folder)
            if not paths:
                raise ManifestError(f"data.{key}: {root / folder} holds no images.")
            generator = Path(folder).name if label else "real"
            rows += [_named_row(folder, path, label, generator) for path in paths]
    table = pd.DataFrame(rows)
    if table["path"].duplicated().any():
        twice = table.loc[table["path"].duplicated(), "path"].iloc[0]
        raise ManifestError(f"data.real_folders and data.fake_folders overlap: {twice} lies in two of them.")
    return table


def _named_row(folder: str, path: str, label: int, generator: str) -> dict[str, Any]:
    """Row of an image below a named folder; ``train``/``val``/``test`` and one content class may lie between."""
    parts = [part for part in path.split("/")[:-1] if part.lower() not in SPLIT_FOLDERS]
    splits = [SPLIT_FOLDERS[part.lower()] for part in path.split("/")[:-1] if part.lower() in SPLIT_FOLDERS]
    return {
        "path": f"{folder}/{path}",
        "label": label,
        "generator": generator,
        "class": parts[-1] if parts else None,
        "split": splits[0] if splits else None,
        "group": None,
    }


def _check_qualities(key: str, *values: object) -> None:
    for value in values:
        if isinstance(value, int) and not 1 <= value <= 100:
            raise ValueError(f"data.{key}={value}: a JPEG quality is a number from 1 to 100.")


def _need_both_labels(rows: pd.DataFrame, where: str, key: str) -> None:
    missing: Sequence[str] = [name for label, name in ((0, "real"), (1, "fake")) if not (rows["label"] == label).any()]
    if missing:
        raise ManifestError(
            f"No {' and no '.join(missing)} images in {where}: a detector needs both classes; check {key}."
        )
