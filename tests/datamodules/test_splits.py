import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.splits import SPLITS, assign_splits


def table(count, **columns):
    frame = pd.DataFrame({"path": [f"{number:05}.jpg" for number in range(count)], "label": 0, "generator": "real"})
    return frame.assign(**columns)


@st.composite
def manifests(draw, with_splits=False):
    count = draw(st.integers(1, 80))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    pick = lambda values: draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))  # noqa: E731
    names = pick(["ADM", "GLIDE"])
    return table(
        count,
        label=labels,
        generator=[name if label else "real" for name, label in zip(names, labels, strict=True)],
        **{"class": pick(["cat", "dog", None])},
        group=pick([None] * 20 + list("abcdefgh")),
        sha256=[value or f"own{number}" for number, value in enumerate(pick([None] * 20 + list("stuvw")))],
        split=pick([None, "train", "test"]) if with_splits else None,
    )


def linked_sets(frame):
    """Components by plain union-find, as an independent check."""
    parent = {}

    def find(node):
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for row in frame.itertuples():
        for column in ("group", "sha256"):
            value = getattr(row, column)
            if not pd.isna(value):
                parent[find(("path", row.path))] = find((column, value))
    return [find(("path", path)) for path in frame["path"]]


fractions = st.sampled_from([(0.1, 0.2), (0.2, 0.0), (0.0, 0.3), (0.0, 0.0), (0.4, 0.4)])


@settings(deadline=None)
@given(manifests(), fractions, st.integers(-5, 2**40))
def test_components_stay_together_and_order_does_not_matter(frame, fraction, seed):
    val, test = fraction
    result = assign_splits(frame, val_fraction=val, test_fraction=test, seed=seed)
    assert result.drop(columns="split").equals(frame.drop(columns="split"))
    assert set(result["split"]) <= set(SPLITS)
    assert (result["split"].groupby(pd.Series(linked_sets(frame))).nunique() == 1).all()
    shuffled = frame.sample(frac=1, random_state=abs(seed) % 1000)
    again = assign_splits(shuffled, val_fraction=val, test_fraction=test, seed=seed)
    pd.testing.assert_series_equal(again["split"].sort_index(), result["split"])


@settings(deadline=None)
@given(manifests(with_splits=True), fractions, st.integers(0, 100))
def test_given_splits_are_kept(frame, fraction, seed):
    val, test = fraction
    result = assign_splits(frame, val_fraction=val, test_fraction=test, seed=seed)["split"]
    assert (result[frame["split"] == "test"] == "test").all()
    changed = (frame["split"] == "train") & (result != "train")
    missing = {name for name, share in (("val", val), ("test", test)) if share and not (frame["split"] == name).any()}
    assert set(result[changed]) <= missing
    components = pd.Series(linked_sets(frame))
    divided = frame["split"].groupby(components).nunique() > 1
    whole = ~components.map(divided)
    assert (result[whole].groupby(components[whole]).nunique() == 1).all()


@settings(deadline=None)
@given(
    st.dictionaries(st.tuples(st.integers(0, 1), st.sampled_from("abcd")), st.integers(1, 60)), fractions, st.integers()
)
def test_fractions_hold_in_every_stratum(sizes, fraction, seed):
    rows = [key for key, size in sizes.items() for _ in range(size)]
    frame = table(len(rows), label=[label for label, _ in rows], generator=[name for _, name in rows])
    result = assign_splits(frame, val_fraction=fraction[0], test_fraction=fraction[1], seed=seed)
    shares = dict(zip(SPLITS, (1 - sum(fraction), *fraction), strict=True))
    for _, part in result.groupby(["label", "generator"]):
        for name, share in shares.items():
            assert abs((part["split"] == name).sum() - share * len(part)) <= 1.25


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers())
def test_fractions_hold_with_groups(sizes, seed):
    groups = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    result = assign_splits(table(len(groups), group=groups), val_fraction=0.2, test_fraction=0.2, seed=seed)
    for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs((result["split"] == name).sum() - share * len(groups)) <= 1.6 * max(sizes)


def test_many_small_strata_add_up():
    frame = table(300, label=1, generator=[f"g{number // 3}" for number in range(300)])
    counts = assign_splits(frame, val_fraction=0.1, test_fraction=0.2, seed=0)["split"].value_counts()
    assert counts.to_dict() == pytest.approx({"train": 210, "val": 30, "test": 60}, abs=3)


@pytest.mark.parametrize("per_class", [1, 10])
def test_classes_are_spread(per_class):
    count = 100 * per_class
    frame = table(count, **{"class": [f"c{number // per_class:03}" for number in range(count)]})
    first = assign_splits(frame, val_fraction=0.2, test_fraction=0.2, seed=0)
    counts = first.groupby(["class", "split"]).size().unstack(fill_value=0)
    assert counts.sum().to_dict() == {"test": count * 0.2, "train": count * 0.6, "val": count * 0.2}
    assert (counts.max() - counts.min()).max() <= 2
    second = assign_splits(frame, val_fraction=0.2, test_fraction=0.2, seed=1)
    same = (first["split"] == second["split"]).mean()
    assert same == pytest.approx(0.44, abs=0.2)  # what independent draws would share


def test_test_is_never_drawn_on_and_val_comes_out_of_train():
    frame = table(100, split=["train"] * 80 + ["test"] * 20)
    result = assign_splits(frame, val_fraction=0.25, test_fraction=0.5, seed=0)["split"]
    assert result.value_counts().to_dict() == {"train": 60, "val": 20, "test": 20}
    assert (result[80:] == "test").all()


@pytest.mark.parametrize(("test_fraction", "expected"), [(0.0, 0), (0.25, 20)])
def test_a_missing_test_is_drawn_from_train_if_asked_for(test_fraction, expected):
    frame = table(100, split=["train"] * 80 + ["val"] * 20)
    result = assign_splits(frame, val_fraction=0.1, test_fraction=test_fraction, seed=0)["split"]
    assert (result == "test").sum() == expected
    assert (result[80:] == "val").all()


def test_rows_without_split_do_not_enlarge_given_ones():
    frame = table(100, split=["train"] * 10 + ["val"] * 10 + ["test"] * 10 + [None] * 70)
    result = assign_splits(frame, val_fraction=0.3, test_fraction=0.3, seed=0)["split"]
    assert result.value_counts().to_dict() == {"train": 80, "val": 10, "test": 10}


def test_contradicting_splits_stay_with_a_warning(caplog):
    frame = table(5, sha256=["a", "a", "a", "b", "c"], split=["train", "test", None, "val", "test"])
    result = assign_splits(frame, val_fraction=0.2, test_fraction=0.2, seed=0)["split"]
    assert result.tolist() == ["train", "test", "train", "val", "test"]
    assert "1 groups or sets of duplicates lie in several of the given splits" in caplog.text


def test_a_row_follows_its_duplicate():
    frame = table(40, group=["g", "g"] + [None] * 38, sha256=[None, "s", "s"] + [None] * 37)
    frame["split"] = ["test"] + [None] * 39
    result = assign_splits(frame, val_fraction=0.2, test_fraction=0.2, seed=0)["split"]
    assert (result[:3] == "test").all()
    assert (result == "test").sum() == 3
    assert (result == "val").sum() == pytest.approx(0.2 * 37, abs=1)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (math.nan, 0.1), (0.1, 1.0)])
def test_bad_fractions_are_refused(val, test):
    with pytest.raises(ValueError, match="sum to less than 1"):
        assign_splits(table(3), val_fraction=val, test_fraction=test, seed=0)


def test_other_names_and_repeated_paths_are_refused():
    with pytest.raises(ValueError, match="'dev'"):
        assign_splits(table(2, split=["train", "dev"]), val_fraction=0.1, test_fraction=0.1, seed=0)
    with pytest.raises(ValueError, match="twice"):
        assign_splits(table(2, path="a"), val_fraction=0.1, test_fraction=0.1, seed=0)


def test_empty_manifest():
    assert assign_splits(table(0), val_fraction=0.1, test_fraction=0.1, seed=0).empty
