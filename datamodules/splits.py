"""Train, validation and test: seeded, stratified, and safe for groups and duplicates."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["SPLITS", "assign_splits", "components"]

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def assign_splits(manifest: pd.DataFrame, *, val_fraction: float, test_fraction: float, seed: int) -> pd.DataFrame:
    """Give every row a split.

    Rows that share a `group` or a `sha256` (directly or through other rows) form a component, and a component is
    never divided. What the manifest says already is respected:

    - A split that occurs already is complete: no row is added to it, except rows of a component that lies in it.
    - A missing `val` or `test` is drawn from the rows that are without a split or in `train`, never from the
      other of the two; it is not drawn if its fraction is 0. The fractions are shares of these rows. So with
      `train` and `test` given, `val` comes out of `train`; with nothing given, all three are drawn.
    - All other rows without a split become `train`.
    - Where given splits divide a component, they stay as they are, with a warning; its rows without a split
      become `train`.

    The draw is stratified: it keeps the fractions within each (label, generator) to about one component, and
    spreads them over the classes of each. It depends on the seed and the rows, not on their order.

    Args:
        manifest: rows with unique `path`, `label` and `generator`; `class`, `split`, `group` and `sha256` count
            where they exist.
        val_fraction: share of validation rows, in [0, 1).
        test_fraction: share of test rows, in [0, 1); together with `val_fraction` below 1.
        seed: any integer; another seed draws other rows.

    Returns:
        A copy of the manifest with `split` filled with "train", "val" and "test"; order and index stay.

    Raises:
        ValueError: if the fractions are out of range, a split has another name, or a path occurs twice.
    """
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} must be at least 0 and sum to less than 1"
        )
    if manifest["path"].duplicated().any():
        raise ValueError("manifest holds the same path twice")
    split = _given_splits(manifest)
    component = components(manifest)
    occurs = np.stack(
        [np.bincount(component[split == name], minlength=component.max(initial=-1) + 1) for name in SPLITS]
    )
    number = np.count_nonzero(occurs, axis=0)  # of different splits in each component
    if (number > 1).any():
        logger.warning("%d groups or sets of duplicates lie in several of the given splits", int((number > 1).sum()))
    of_component = np.where(number == 1, np.array(SPLITS)[occurs.argmax(axis=0)], "train")
    is_pool = (occurs[1:] == 0).all(axis=0)[component]
    split = np.where(split == "", of_component[component], split)
    shares = {
        name: share
        for name, share, total in zip(SPLITS[1:], (val_fraction, test_fraction), occurs[1:].sum(axis=1), strict=True)
        if share > 0 and total == 0
    }
    if shares:
        split[is_pool] = _draw(manifest[is_pool], component[is_pool], shares, seed)
    return manifest.assign(split=pd.Series(split, index=manifest.index, dtype="object"))


def _given_splits(manifest: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Splits that the manifest names, "" where it names none, shape `(N,)`."""
    if "split" not in manifest:
        return np.full(len(manifest), "", dtype="U5")
    given = manifest["split"].astype("object")
    unknown = set(given.dropna()) - set(SPLITS)
    if unknown:
        raise ValueError(f"splits must be {', '.join(SPLITS)} or missing, got {', '.join(sorted(map(repr, unknown)))}")
    return given.where(given.notna(), "").to_numpy(dtype="U5")


def components(manifest: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Number of the component of each row: rows linked by a `group` or a `sha256` share it. Shape `(N,)`."""
    count = len(manifest)
    rows, links, nodes = [], [], count  # rows are the first nodes; every group and every checksum is one more
    for column in ("group", "sha256"):
        if column in manifest:
            codes, values = pd.factorize(manifest[column])
            rows.append(np.flatnonzero(codes >= 0))
            links.append(codes[codes >= 0] + nodes)
            nodes += len(values)
    source, target = np.concatenate([*rows, []]).astype(np.int64), np.concatenate([*links, []]).astype(np.int64)
    graph = coo_array((np.ones(len(source), dtype=np.int8), (source, target)), shape=(nodes, nodes))
    labels = connected_components(graph.tocsr(), directed=False)[1][:count]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _draw(
    rows: pd.DataFrame, component: npt.NDArray[np.int64], shares: dict[str, float], seed: int
) -> npt.NDArray[np.str_]:
    """Divide whole components among train and the given splits.

    Components are dealt out one after the other, each to the split that is furthest behind its share of the
    (label, generator) strata it belongs to. Large ones go first, so that small ones can even them out; equal
    ones go class by class, so that each class is dealt out evenly; all else is shuffled by the seed.

    Args:
        rows: the rows to divide.
        component: their component numbers, shape `(n,)`.
        shares: share of each split but train.
        seed: seed of the shuffle.

    Returns:
        The split of each row, shape `(n,)`.
    """
    names = ["train", *shares]
    dealer = _Dealer([1 - sum(shares.values()), *shares.values()])
    chosen = {number: names[dealer.deal(members)] for number, members in _shuffled(rows, component, seed)}
    return np.array([chosen[number] for number in component.tolist()], dtype="U5")


_Stratum = tuple[str, str]  # label, generator


def _shuffled(rows: pd.DataFrame, component: npt.NDArray[np.int64], seed: int) -> list[tuple[int, dict[_Stratum, int]]]:
    """Components in the order of dealing, each with its number of rows per stratum.

    The order is made of hashes of the seed with paths and names, so it does not depend on the order of the rows.
    """
    classes = rows["class"].fillna("").astype(str) if "class" in rows else [""] * len(rows)
    members: dict[int, dict[_Stratum, int]] = defaultdict(dict)
    keys: dict[int, tuple[bytes, bytes]] = {}
    columns = (rows["path"].astype(str), rows["label"].astype(str), rows["generator"].astype(str), classes)
    for path, label, generator, content, number in sorted(zip(*columns, component.tolist(), strict=True)):
        if number not in keys:  # the first path stands for the component
            keys[number] = (_hash(seed, label, generator, content), _hash(seed, path))
        counts = members[number]
        counts[label, generator] = counts.get((label, generator), 0) + 1
    return sorted(members.items(), key=lambda item: (-sum(item[1].values()), keys[item[0]]))


def _hash(seed: int, *parts: str) -> bytes:
    """Eight bytes that look random and depend on nothing but the arguments."""
    return hashlib.blake2b("\0".join((str(seed), *parts)).encode(errors="surrogateescape"), digest_size=8).digest()


class _Dealer:
    """Deals components out so that every stratum keeps the shares.

    Args:
        shares: share of each split; they sum to 1.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = shares
        self.given: dict[Hashable, list[int]] = defaultdict(lambda: [0] * len(shares))

    def deal(self, members: dict[_Stratum, int]) -> int:
        """Choose the split of a component from its number of rows per stratum, and note it."""
        scores = [
            sum(count * self._need(stratum, count, split) for stratum, count in members.items())
            for split in range(len(self.shares))
        ]
        best = scores.index(max(scores))
        for (label, generator), count in members.items():
            self.given[label, generator][best] += count
            self.given[label][best] += count
        return best

    def _need(self, stratum: _Stratum, count: int, split: int) -> float:
        """Rows that a split lacks in a stratum.

        What it lacks in the whole label counts up to half a component: that settles close calls, which
        would else fall alike in each of many small strata.
        """
        whole = self._lack(stratum[0], count, split) / count
        return self._lack(stratum, count, split) + count * min(0.5, max(-0.5, whole))

    def _lack(self, key: Hashable, count: int, split: int) -> float:
        """Share of a split in the rows dealt so far and `count` more, less what it has."""
        given = self.given[key]
        return self.shares[split] * (sum(given) + count) - given[split]
