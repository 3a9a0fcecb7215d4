"""Broken images, manifests and folders, made in a given folder: the first part of the corpus.

Tables of faces and features are in ``broken_tables.py``, configs, checkpoints and studies in ``broken_settings.py``.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

DATA = "RealFakeDataModule"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
TRAINER = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "limit_train_batches": 1, **QUIET}
DETECTOR = {"class_path": "ImageDetector", "init_args": {"backbone": "small_cnn", "backbone_kwargs": {"width": 4}}}


@dataclass(frozen=True)
class BrokenInput:
    """A mistake, and what the command line must say about it.

    Args:
        name: what is wrong.
        make: writes the input into a user's folder and returns the command line.
        says: parts of the message: what is wrong (file, key or value), and what mends it.
        report: file that names the broken files, where they are left out and the run goes on; it holds ``says``.
        silent_about: what that file must not hold.
    """

    name: str
    make: Callable[[User], list[str]]
    says: tuple[str, ...]
    report: str | None = None
    silent_about: tuple[str, ...] = ()


class User:
    """A folder with a small data set, a config and a finished run, in which one thing is then broken.

    Args:
        folder: an existing folder, the working directory of the command.
        run: a run that was finished elsewhere.
    """

    def __init__(self, folder: Path, run: Path | None = None) -> None:
        self.folder, self.run = folder, run
        rng = np.random.default_rng(0)
        for label in ("real", "fake"):
            for index in range(6):
                self.file(f"images/{label}/{index}.png", encoded("PNG", rng.integers(0, 256, (16, 16, 3))))
        self.config()

    def file(self, name: str, content: bytes | str = b"") -> str:
        """Write a file, and give its name back."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def config(self, name: str = "good.yaml", model: object = DETECTOR, data: str = DATA, **options: object) -> str:
        """Write a config of a detector of the images, or of others."""
        if data == DATA:
            options = {"root": "images", "image_size": 16, "audit": "off", **options}
        options = {"batch_size": 4, **({} if data == "FeatureTableDataModule" else {"num_workers": 0}), **options}
        parts = {"model": model, "data": {"class_path": data, "init_args": options}, "trainer": TRAINER}
        return self.file(name, yaml.safe_dump(parts))

    def fit(self, *arguments: str, config: str = "good.yaml") -> list[str]:
        """The command that trains."""
        return ["fit", "-c", config, *arguments]

    def manifest(self, *rows: str, header: str = "path,label") -> list[str]:
        """Train on a manifest of all images with a different beginning."""
        images = sorted((self.folder / "images").glob("*/*.png"))
        good = [f"{path.relative_to(self.folder / 'images')},{path.parent.name}" for path in images]
        extra = "," * (header.count(",") - 1)
        self.file("list.csv", "\n".join([header, *rows, *(row + extra for row in good)]))
        return self.fit("--data.manifest=list.csv")


def encoded(kind: str, pixels: object, mode: str | None = None, **options: object) -> bytes:
    """Pixels as the bytes of an image file."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(kind: str, mode: str | None = None, **options: object) -> bytes:
    return encoded(kind, np.random.default_rng(1).integers(0, 256, (32, 32, 3)), mode, **options)


def _bomb() -> bytes:
    """A PNG whose header promises ten billion pixels."""
    good = _noise("PNG")
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + good[24:29]
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def _array(values: object, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(buffer, kind)
    return buffer.getvalue()


IMAGES: dict[str, tuple[bytes, str]] = {
    "cut.jpg": (_noise("JPEG")[:-200], "truncated"),
    "cut.png": (_noise("PNG")[:-300], "truncated"),
    "cut.webp": (_noise("WEBP")[:-100], "corrupt"),
    "cut.gif": (_noise("GIF")[:-400], "truncated"),
    "cut.tif": (_noise("TIFF")[:-400], "truncated"),
    "cut.bmp": (_noise("BMP")[:-400], "truncated"),
    "half_header.png": (_noise("PNG")[:20], "its header is damaged"),
    "no_bytes.jpg": (b"", "empty"),
    "text.jpg": (b"no picture but words\n" * 40, "not an image in a known format"),
    "page.png": (b"<!doctype html><title>404 Not Found</title>", "not an image in a known format"),
    "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in a known format"),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a known format"),
    "archive.jpg": (b"PK\x03\x04" + bytes(200), "not an image in a known format"),
    "zeros.png": (bytes(3000), "not an image in a known format"),
    "bomb.png": (_bomb(), "too large: more than"),
    "flipped.png": (_flipped(_noise("PNG")), "corrupt"),
    "infinite.tif": (
        _array(np.full((32, 32), np.inf, np.float32), "TIFF"),
        "corrupt: floating-point pixels have no defined range; save the image with 8 or 16 bits",
    ),
    "deep.tif": (
        _array(np.full((32, 32), 1 << 20, np.int32), "TIFF"),
        "corrupt: integer pixels beyond 16 bits; save the image with 8 or 16 bits",
    ),
}
"""Files that are no images any more, and the reason that is given."""

ODD: dict[str, bytes] = {
    "cmyk.jpg": _noise("JPEG", "CMYK"),
    "grey16.png": _array(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64, "PNG"),
    "palette.png": _noise("PNG", "P"),
    "clear.png": _noise("PNG", "RGBA"),
    "bits.png": _noise("PNG", "1"),
    "jpeg_inside.png": _noise("JPEG"),
    "png_inside.JPEG": _noise("PNG"),
    "moving.gif": _noise(
        "GIF", save_all=True, append_images=[Image.fromarray(np.zeros((32, 32, 3), np.uint8))], duration=40
    ),
    "moving.webp": _noise("WEBP", save_all=True, append_images=[Image.new("RGB", (32, 32))]),
}
"""Images that look broken to some programs, and are none."""


def _refused_image(user: User, name: str) -> list[str]:
    user.file(f"images/fake/{name}", IMAGES[name][0])
    return user.fit("--data.on_corrupt=raise")


def _all_images(user: User) -> list[str]:
    for name, (content, _) in IMAGES.items():
        user.file(f"images/fake/{name}", content)
    os.symlink("gone.png", user.folder / "images/fake/link.png")
    return user.fit()


def _judged(user: User) -> list[str]:
    assert user.run is not None
    for name, content in {**ODD, **{name: content for name, (content, _) in IMAGES.items()}}.items():
        user.file(f"unknown/{name}", content)
    (user.folder / "unknown/folder.png").mkdir()
    checkpoint = f"--ckpt_path={user.run / 'checkpoints/last.ckpt'}"
    return ["predict", "-c", "good.yaml", "--data.predict_root=unknown", checkpoint]


def _link(user: User) -> list[str]:
    os.symlink("gone.png", user.folder / "images/fake/link.png")
    return user.fit("--data.on_corrupt=raise")


def _predict_root(user: User, name: str) -> list[str]:
    assert user.run is not None
    (user.folder / "nothing").mkdir()
    user.file("damaged/cut.jpg", IMAGES["cut.jpg"][0])
    checkpoint = f"--ckpt_path={user.run / 'checkpoints/last.ckpt'}"
    return ["predict", "-c", "good.yaml", f"--data.predict_root={name}", checkpoint]


_SKIP = "--data.on_corrupt skip"
OF_IMAGES = [
    *(
        BrokenInput(name, partial(_refused_image, name=name), (f"fake/{name}: {IMAGES[name][1]}", _SKIP))
        for name in ("cut.jpg", "bomb.png", "infinite.tif")
    ),
    BrokenInput("link to nothing", _link, ("link.png: missing", _SKIP)),
    BrokenInput(
        "all at once, skipped",
        _all_images,
        ("fake/link.png,missing", *(f"fake/{name}," for name in IMAGES), *(why for _, why in IMAGES.values())),
        "corrupt_files.csv",
        ("/0.png",),
    ),
    BrokenInput("odd images are judged", _judged, tuple(ODD), "predictions.csv", (*IMAGES, "folder.png")),
    BrokenInput("nothing to judge", partial(_predict_root, name="nothing"), ("data.predict_root=nothing", "no images")),
    BrokenInput("only damage to judge", partial(_predict_root, name="damaged"), ("cut.jpg: truncated", "Restore or")),
]


def _layout(user: User, *moves: tuple[str, str]) -> list[str]:
    for old, new in moves:
        (user.folder / new).parent.mkdir(parents=True, exist_ok=True)
        (user.folder / old).rename(user.folder / new)
    return user.fit()


def _empty_class(user: User) -> list[str]:
    (user.folder / "images/other/fake").mkdir(parents=True)
    return user.fit()


def _small(user: User) -> list[str]:
    user.file("images/real/small.png", encoded("PNG", np.zeros((8, 9, 3))))
    return user.fit()


def _root_file(user: User) -> list[str]:
    return user.fit(f"--data.root={user.file('images.zip', 'PK')}")


OF_FOLDERS = [
    BrokenInput("no folder", lambda user: user.fit("--data.root=imagse"), ("data.root=imagse", "--data.root FOLDER")),
    BrokenInput("file for a folder", _root_file, ("images.zip is not a folder", "--data.root FOLDER")),
    BrokenInput(
        "unknown class folder",
        lambda user: _layout(user, ("images/real", "images/photos"), ("images/fake", "images/gan")),
        ("No class folders", "it holds gan, photos", "Name them real and fake"),
    ),
    BrokenInput("one class", lambda user: _layout(user, ("images/real", "r")), ("Constant labels", "Add the other")),
    BrokenInput(
        "a level too low",
        lambda user: user.fit("--data.root=images/real"),
        ("lies in", "pass the folder that holds"),
    ),
    BrokenInput("empty class folder", _empty_class, ("other/fake holds no images", "remove it if it is not wanted")),
    BrokenInput(
        "named folder that is not there",
        lambda user: user.fit("--data.real_folders=real", "--data.fake_folders=[fakes]"),
        ("data.fake_folders: images/fakes does not exist", "relative to data.root"),
    ),
    BrokenInput("too small", _small, ("real/small.png with 9 x 8", "set data.small_images to pad or drop")),
    BrokenInput(
        "nothing left to train on",
        lambda user: user.fit("--data.selection=constrained"),
        ("BalanceClasses", "content class of every image"),
    ),
]


def _manifest_bytes(user: User, content: bytes) -> list[str]:
    user.file("list.csv", content)
    return user.fit("--data.manifest=list.csv")


def _absolute(user: User) -> list[str]:
    path = (user.folder / "images/fake/0.png").absolute()
    return user.manifest(f"{path},fake")


def _folder_as_image(user: User) -> list[str]:
    (user.folder / "images/x.png").mkdir()
    return [*user.manifest("x.png,fake"), "--data.on_corrupt=raise"]


def _rows(*rows: str, header: str = "path,label", says: tuple[str, ...], name: str) -> BrokenInput:
    return BrokenInput(f"manifest: {name}", lambda user: user.manifest(*rows, header=header), says)


def _content(name: str, content: bytes, *says: str) -> BrokenInput:
    return BrokenInput(f"manifest: {name}", partial(_manifest_bytes, content=content), says)


_LINE = "list.csv, line 2"
OF_MANIFESTS = [
    _rows(name="no label column", header="path,lable", says=("list.csv, line 1", "lacks column 'label'", "accepted")),
    _rows("x.png,rael", name="unknown label", says=(_LINE, "'rael' is not one of real")),
    _rows("fake/0.png,fake", name="duplicate", says=("'fake/0.png' is already on line 2", "remove one")),
    _rows("x.png,fake,extra", name="a value too many", says=(_LINE, "3 values for 2 columns", "quote")),
    _content("wrong delimiter", b"path;label\na.png;real\n", "list.csv, line 1", "separated by commas"),
    _content("UTF-16", "path,label\na.png,real\n".encode("utf-16"), "list.csv", "UTF-8"),
    _content("Latin-1", "path,label\nmüll.png,real\n".encode("latin-1"), "list.csv", "save it as UTF-8"),
    _content("an endless cell", b'path,label\n"' + b"a" * 200_000, "list.csv", "quote"),
    BrokenInput("manifest: absolute and relative", _absolute, ("'fake/0.png' is already on line 2", "remove one")),
    BrokenInput(
        "manifest: missing file, skipped",
        lambda user: user.manifest("gone.png,fake"),
        ("gone.png,missing",),
        "corrupt_files.csv",
        ("0.png",),
    ),
    BrokenInput("manifest: folder", _folder_as_image, ("x.png: unreadable", _SKIP)),
    BrokenInput(
        "manifest: a folder itself",
        lambda user: user.fit("--data.manifest=images"),
        ("manifest images is a folder", "--data.manifest FILE"),
    ),
]
