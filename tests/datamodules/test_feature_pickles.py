"""The authors' pickles: arrays come through, everything else is refused before it runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules import ManifestError
from datamodules.feature_pickles import convert_feature_pickle, read_feature_pickle


@pytest.mark.parametrize("protocol", range(5))
def test_tables_of_every_protocol_become_npz(tmp_path, protocol):
    data, label = np.random.default_rng(0).normal(size=(6, 4)), np.array([0.0, 0, 0, 1, 1, 1])
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"data": data, "label": label}, protocol=protocol))
    convert_feature_pickle(tmp_path / "t.pkl", tmp_path / "t.npz", fake_label=0)
    with np.load(tmp_path / "t.npz", allow_pickle=False) as table:
        np.testing.assert_array_equal(table["features"], data)
        assert table["is_fake"].tolist() == [True] * 3 + [False] * 3


class Hostile:
    """Would make a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_names_beyond_numpys_are_refused_and_not_called(tmp_path):
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"data": Hostile(tmp_path / "harm")}))
    with pytest.raises(ManifestError, match=r"not read: it holds the name posix\.mkdir"):
        read_feature_pickle(tmp_path / "t.pkl")
    assert not (tmp_path / "harm").exists()


def test_hostile_objects_inside_arrays_and_other_codecs_are_refused(tmp_path):
    array = np.array([Hostile(tmp_path / "harm")], dtype=object)
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"data": array}))
    with pytest.raises(ManifestError, match=r"posix\.mkdir"):
        read_feature_pickle(tmp_path / "t.pkl")
    assert not (tmp_path / "harm").exists()
    (tmp_path / "t.pkl").write_bytes(b"c_codecs\nencode\n(Vx\nVrot13\ntR.")
    with pytest.raises(ManifestError, match="encoding 'rot13'"):
        read_feature_pickle(tmp_path / "t.pkl")


def test_other_content_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        read_feature_pickle(tmp_path / "t.pkl")
    for content in ([1, 2], {"data": np.zeros((2, 2))}, {"data": np.zeros((2, 2)), "label": np.zeros(3)}):
        (tmp_path / "t.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ManifestError, match="does not hold `data`"):
            read_feature_pickle(tmp_path / "t.pkl")
    objects = {"data": np.array([[None]]), "label": np.zeros(1)}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(objects))
    with pytest.raises(ManifestError, match=r"\['object', 'float64'\], not of numbers"):
        read_feature_pickle(tmp_path / "t.pkl")
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"data": np.zeros((2, 2)), "label": np.array([3, 4])}))
    with pytest.raises(ManifestError, match=r"labels \[3 4\]"):
        convert_feature_pickle(tmp_path / "t.pkl", tmp_path / "t.npz", 1)
