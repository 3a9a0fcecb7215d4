"""Pairs on disk: whole or not at all, with their settings, split without leaks."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.adversarial_pairs import PairFolder, Pairs, load_reference, save_reference


def pairs(numbers):
    numbers = np.array(numbers)
    images = np.random.default_rng(0).random((len(numbers), 3, 4, 4), np.float32)
    return Pairs(images, images[::-1].copy(), numbers % 10, (numbers + 1) % 10, numbers)


def test_batches_come_back_in_order_and_to_the_last_bit(tmp_path):
    folder = PairFolder(tmp_path / "fgsm", {"epsilon": 0.03})
    second, first = pairs(range(5, 9)), pairs(range(4))
    folder.write(1, second, 6)
    folder.write(0, first, 5)
    assert folder.has(0)
    assert not folder.has(2)
    assert folder.counts() == (8, 11)
    read, tried = PairFolder(tmp_path / "fgsm").read()
    assert tried == 11
    assert read.number.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert np.array_equal(read.attacked, np.concatenate([first.attacked, second.attacked]))
    assert read.attacked.dtype == np.float32


def test_pairs_of_other_settings_are_refused(tmp_path):
    PairFolder(tmp_path, {"epsilon": 0.03, "seed": 0}).write(0, pairs([1]), 1)
    PairFolder(tmp_path, {"seed": 0, "epsilon": 0.03})
    with pytest.raises(ValueError, match=r"epsilon=0.03, not 0.1"):
        PairFolder(tmp_path, {"epsilon": 0.1, "seed": 0})


def test_a_write_that_was_cut_off_leaves_nothing_to_read(tmp_path):
    folder = PairFolder(tmp_path, {})
    (tmp_path / ".00000.npz").write_bytes(b"half a file")
    assert not folder.has(0)
    assert folder.counts() == (0, 0)
    with pytest.raises(FileNotFoundError, match="no attacked images"):
        folder.read()


def test_parts_hold_64_16_and_20_percent_and_depend_on_the_image_alone():
    everything = pairs(range(5000))
    parts = everything.parts(seed=3)
    shares = [len(parts[name]) / 5000 for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.64, 0.16, 0.2], abs=0.03)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(5000))
    some = everything[np.random.default_rng(0).permutation(5000)[:400]]
    for name, rows in some.parts(seed=3).items():
        assert set(some.number[rows]) <= set(everything.number[parts[name]])
    assert set(everything.parts(seed=4)["test"]) != set(parts["test"])


def test_too_few_pairs_for_a_split_are_refused():
    with pytest.raises(ValueError, match="1 pairs leave no image for"):
        pairs([7]).parts(0)


def test_reference_images_come_back(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(np.uint8)
    save_reference(tmp_path / "new", images, np.arange(5))
    read, labels = load_reference(tmp_path / "new")
    assert np.array_equal(read, images)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(FileNotFoundError, match="Mahalanobis and LID"):
        load_reference(tmp_path)


def test_a_damaged_file_is_named_with_its_mend(tmp_path):
    PairFolder(tmp_path, {"victim": "abc"}).write(0, pairs([1, 2]), 2)
    PairFolder(tmp_path).check_victim("abc")
    with pytest.raises(ValueError, match=r"pairs of another victim \(abc, not def\)"):
        PairFolder(tmp_path).check_victim("def")
    file = tmp_path / "00000.npz"
    file.write_bytes(file.read_bytes()[:300])
    for read in (lambda: PairFolder(tmp_path).read(), lambda: PairFolder(tmp_path, {}), PairFolder(tmp_path).counts):
        with pytest.raises(ValueError, match=r"00000\.npz is damaged .* Delete it"):
            read()
