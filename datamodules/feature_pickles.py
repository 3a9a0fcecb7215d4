"""The authors' pickled feature tables as ``.npz``, read without running anything that a pickle may hold.

A pickle is a program that may call any function. The tables of Durall et al. 2019 are dictionaries of two numpy arrays
and need three names to be rebuilt: numpy's ``_reconstruct``, ``ndarray`` and ``dtype`` (and ``_codecs.encode``, with
which Python 2 protocols write bytes). The reader here knows these names and no others.

Run ``python -m datamodules.feature_pickles celeba_low_1000.pkl features.npz --fake-label 1``. Fakes have the label 1 in
the CelebA table and 0 in that of DeepFakeDetection.
"""

from __future__ import annotations

import argparse
import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from datamodules.manifest import ManifestError

__all__ = ["convert_feature_pickle", "read_feature_pickle"]


def _encode(text: str, encoding: str) -> bytes:
    """The one use that pickles make of ``codecs.encode``; others would reach any codec that is installed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return codecs.encode(text, "latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays in plain containers; refuses everything else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Look a name up in the short list."""
        try:
            return _NAMES[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module_name}.{global_name}") from None


def read_feature_pickle(file: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Arrays of one of the authors' tables.

    Args:
        file: pickle of ``{"data": (N, K), "label": (N,)}``.

    Returns:
        Features, float64 ``(N, K)``, and labels as they are coded there, ``(N,)``.

    Raises:
        ManifestError: if the file is missing, needs other names than numpy's, or holds something else.
    """
    if not file.is_file():
        raise ManifestError(f"{file} does not exist; give one of the authors' tables, .pkl.")
    try:
        with open(file, "rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except Exception as error:  # a damaged or hostile pickle raises nearly any type
        raise ManifestError(f"{file} is no table of numpy arrays, and is not read: it holds {error}.") from error
    arrays: list[Any] = [content.get(key) for key in ("data", "label")] if isinstance(content, dict) else []
    if [getattr(array, "ndim", None) for array in arrays] != [2, 1] or len(arrays[0]) != len(arrays[1]):
        raise ManifestError(f"{file} does not hold `data` of shape (N, K) and `label` of shape (N,).")
    if any(array.dtype.kind not in "fiu" for array in arrays):
        raise ManifestError(f"{file} holds arrays of {[str(array.dtype) for array in arrays]}, not of numbers.")
    return arrays[0].astype(np.float64), arrays[1]


def convert_feature_pickle(file: Path, target: Path, fake_label: int) -> None:
    """Write a table as ``.npz`` with ``features`` and ``is_fake``.

    Args:
        file: the authors' pickle.
        target: file to write.
        fake_label: what the pickle calls a fake, 0 or 1.

    Raises:
        ManifestError: if the pickle is not such a table, or has other labels than 0 and 1.
    """
    features, labels = read_feature_pickle(file)
    if not set(np.unique(labels)) <= {0, 1} or fake_label not in (0, 1):
        raise ManifestError(f"{file}: labels {np.unique(labels)[:5]}, fake_label={fake_label}; they are 0 and 1.")
    np.savez_compressed(target, features=features, is_fake=labels == fake_label)


def main() -> None:
    """Run the conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pickle", type=Path)
    parser.add_argument("npz", type=Path)
    parser.add_argument("--fake-label", type=int, choices=(0, 1), required=True)
    options = parser.parse_args()
    convert_feature_pickle(options.pickle, options.npz, options.fake_label)
    print(f"Written: {options.npz}")


if __name__ == "__main__":
    main()
