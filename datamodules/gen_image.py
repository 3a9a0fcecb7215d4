"""GenImage (Zhu et al. 2023): eight generators, each with its own share of ImageNet as reals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.manifest import ManifestError
from datamodules.real_fake import RealFakeDataModule
from datamodules.scan import list_images

__all__ = ["GenImageDataModule", "read_genimage_metadata", "read_genimage_tree"]

_LABELS = {"nature": 0, "ai": 1}
_SPLITS = {"train": "train", "val": "test"}  # the published val folders are what papers report on: our test


class GenImageDataModule(RealFakeDataModule):
    """GenImage with the published selections and one test loader per generator.

    ``root`` holds ``<generator>/[<imagenet_...>/]{train,val}/{ai,nature}/<file>``; the middle level may be missing.
    The published ``val`` folders are the test sets here, and validation images are drawn from ``train``, so that
    checkpoints are not chosen on what is reported.

    Args:
        root: folder that holds one folder per generator.
        train_generators: generators (folder names) to train on; all by default.
        test_generators: generators to test on; all by default.
        metadata: the published ``metadata.csv``, which gives classes; ``root/metadata.csv`` is taken if it exists.
        kwargs: as for :class:`RealFakeDataModule`.
    """

    def __init__(
        self,
        root: str = "data/genimage",
        train_generators: list[str] | None = None,
        test_generators: list[str] | None = None,
        metadata: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, **kwargs)
        self.train_generators, self.test_generators = train_generators, test_generators
        default = self.root / "metadata.csv"
        self.metadata = Path(metadata).expanduser() if metadata else default if default.is_file() else None

    def build_manifest(self) -> pd.DataFrame:
        """The tree, or the rows of the metadata file."""
        manifest = read_genimage_metadata(self.metadata) if self.metadata else read_genimage_tree(self.root)
        known = set(manifest["subset"])
        for key, names in (("train_generators", self.train_generators), ("test_generators", self.test_generators)):
            unknown = sorted(set(names or []) - known)
            if unknown:
                raise ManifestError(f"data.{key}: {self.root} has no {unknown}; it has {sorted(known)}.")
        return manifest

    def training_rows(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """Fakes of the training generators; reals of their folders, or of all if the selection says so."""
        chosen = manifest["subset"].isin(self.train_generators or manifest["subset"].unique())
        return manifest[chosen | (manifest["label"] == 0) if self.selection.all_reals else chosen]

    def test_rows(self, manifest: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Each generator's own folder, reals and fakes."""
        names = self.test_generators or sorted(manifest["subset"].unique())
        return {name: manifest[manifest["subset"] == name] for name in names}


def read_genimage_tree(root: Path) -> pd.DataFrame:
    """Manifest of a GenImage folder.

    Args:
        root: folder with one folder per generator; both known layouts, with and without the ``imagenet_...`` level.

    Returns:
        Manifest with ``subset``, the generator folder that an image, real or fake, lies in. Content classes are
        unknown here; only ``metadata.csv`` has them.

    Raises:
        ManifestError: if the folder does not exist or holds no such layout.
    """
    if not root.is_dir():
        raise ManifestError(f"data.root={root} does not exist; pass --data.root DIR, the folder of GenImage.")
    rows = [row for path in list_images(root) if (row := _parse(path)) is not None]
    if not rows:
        raise ManifestError(
            f"data.root={root} holds no <generator>/[imagenet_...]/{{train,val}}/{{ai,nature}}/ images. If it is one "
            "generator's folder, pass its parent; if it has real/fake folders, use RealFakeDataModule."
        )
    return pd.DataFrame(rows).assign(group=None)


def read_genimage_metadata(csv: Path) -> pd.DataFrame:
    """Manifest of the published ``metadata.csv``.

    Args:
        csv: file with the columns ``path, generator, class, mode``; further ones are ignored, since the files
            themselves tell their size and quality.

    Returns:
        Manifest with ``subset`` and ``class``.

    Raises:
        ManifestError: if columns are missing or a path has not GenImage's form.
    """
    if not csv.is_file():
        raise ManifestError(f"data.metadata={csv} does not exist.")
    table = pd.read_csv(csv, dtype={"class": "string"})
    missing = {"path", "generator", "class", "mode"} - set(table.columns)
    if missing:
        raise ManifestError(f"{csv} lacks the columns {sorted(missing)}; it is not GenImage's metadata.csv.")
    rows = []
    classes = table["class"].astype(object).where(table["class"].notna(), None)
    for line, (path, content) in enumerate(zip(table["path"].astype(str), classes, strict=True), start=2):
        row = _parse(path)
        if row is None:
            raise ManifestError(f"{csv}, line {line}: {path!r} is not <generator>/.../(train|val)/(ai|nature)/file.")
        rows.append({**row, "class": content})
    return pd.DataFrame(rows).assign(group=None)


def _parse(path: str) -> dict[str, Any] | None:
    """Row of a path whose last folders are ``<split>/<label>`` below a generator's folder."""
    parts = path.split("/")
    if len(parts) < 4 or parts[-2] not in _LABELS or parts[-3] not in _SPLITS:
        return None
    label = _LABELS[parts[-2]]
    has_middle = len(parts) >= 5 and parts[-4].startswith("imagenet")
    subset = parts[-5] if has_middle else parts[-4]
    return {
        "path": path,
        "label": label,
        "generator": subset if label else "real",
        "subset": subset,
        "split": _SPLITS[parts[-3]],
        "class": None,
    }
