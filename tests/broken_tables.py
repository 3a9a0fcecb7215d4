"""Broken tables of face attributes and of features: the second part of the corpus."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from broken_inputs import DETECTOR, BrokenInput, User, encoded

JUDGE = {"class_path": "AttributeClassifier", "init_args": {"attributes": ["Smiling"], **DETECTOR["init_args"]}}
_HEADS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"


def _celeba(
    user: User, table: str = "", content: bytes | str = "", keep_images: bool = True, **options: object
) -> list[str]:
    """Twelve faces in CelebA's layout, with one table replaced."""
    names = [f"{index:06d}.jpg" for index in range(1, 13)]
    for name in names if keep_images else ():
        user.file(f"celeba/img_align_celeba/{name}", encoded("JPEG", np.full((218, 178, 3), 90)))
    (user.folder / "celeba/img_align_celeba").mkdir(parents=True, exist_ok=True)
    rows = [f"{name} {1 if index % 2 else -1} -1" for index, name in enumerate(names)]
    user.file("celeba/list_attr_celeba.txt", "\n".join(["12", "Smiling Mustache", *rows]))
    if table:
        user.file(f"celeba/{table}", content)
    faces = {"root": "celeba", "attributes": ["Smiling"], "regions": ["mouth"], "image_size": 16, "crop_first": 100}
    user.config("faces.yaml", JUDGE, "FaceAttributesDataModule", **{**faces, **options})
    return user.fit(config="faces.yaml")


def _table(name: str, content: bytes | str, *says: str, table: str = "list_attr_celeba.txt") -> BrokenInput:
    return BrokenInput(f"CelebA: {name}", partial(_celeba, table=table, content=content), says)


_ATTRIBUTES = "list_attr_celeba.txt"
OF_TABLES = [
    BrokenInput(
        "CelebA: unknown attribute",
        partial(_celeba, attributes=["Smilling"]),
        ("data.attributes", "no 'Smilling'", "it has Smiling"),
    ),
    BrokenInput("CelebA: other images", partial(_celeba, keep_images=False), ("'000001.jpg'", "Set data.images")),
    _table("empty table", "", _ATTRIBUTES, "is empty"),
    _table("a value short", "2\nSmiling Mustache\n000001.jpg 1\n000002.jpg 1 1\n", _ATTRIBUTES, "line 3", "2 columns"),
    _table(
        "a word for a value",
        "1\nSmiling Mustache\n000001.jpg yes -1\n",
        _ATTRIBUTES,
        "'yes'",
        "for 000001.jpg",
        "1 or -1",
    ),
    _table("not UTF-8", b"1\nSmiling \xff\n000001.jpg 1 1\n", _ATTRIBUTES, "save it as UTF-8"),
    _table("a face twice", "2\nSmiling\n000001.jpg 1\n000001.jpg -1\n", _ATTRIBUTES, "000001.jpg", "remove one"),
    _table(
        "landmarks of some",
        f"1\n{_HEADS}\n000001.jpg {' '.join(['9'] * 10)}\n",
        "list_landmarks_align_celeba.txt has no landmarks of 000002.jpg",
        "complete it",
        table="list_landmarks_align_celeba.txt",
    ),
    _table("parts of some", "000001.jpg 0\n", "does not say which part 000002.jpg", table="list_eval_partition.txt"),
    _table(
        "parts of another kind",
        "\n".join(f"{index:06d}.jpg 7" for index in range(1, 13)),
        "list_eval_partition.txt",
        "7",
        "0, 1 or 2",
        table="list_eval_partition.txt",
    ),
]


def _features(user: User, content: bytes) -> list[str]:
    user.file("table.npz", content)
    svm = {"class_path": "SpectrumDetector", "init_args": {"head": "logistic_regression"}}
    user.config("spectra.yaml", svm, "FeatureTableDataModule", file="table.npz")
    return user.fit(config="spectra.yaml")


def _npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


_GOOD = _npz(features=np.zeros((4, 3)), label=np.array([0, 1, 0, 1]))
OF_FEATURES = [
    BrokenInput(f"features: {name}", partial(_features, content=content), ("table.npz", *says))
    for name, content, says in (
        ("no archive", b"words", ("no .npz file", "np.savez")),
        ("truncated", _GOOD[:-90], ("no .npz file", "np.savez")),
        ("objects", _npz(features=np.array([{}], object), label=np.zeros(1)), ("plain numbers", "np.savez")),
    )
]
