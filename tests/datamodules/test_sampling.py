"""Seeded sampling: shards cover the data, order and seeds depend on seed and epoch only."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.sampling import SeededSampler


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 5), st.booleans(), st.integers(0, 3), st.integers(0, 2**40))
def test_shards_cover_the_data(length, ranks, shuffle, epoch, seed):
    options = {"shuffle": shuffle, "seed": seed, "epoch": lambda: epoch}
    alone = list(SeededSampler(range(length), **options))
    shards = [SeededSampler(range(length), num_replicas=ranks, rank=rank, **options) for rank in range(ranks)]
    drawn = [list(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(draws) for draws in drawn]
    assert {draw.item for draws in drawn for draw in draws} == set(range(length))
    interleaved = [draws[i] for i in range(max(map(len, drawn))) for draws in drawn if i < len(draws)]
    assert interleaved[:length] == alone  # two processes see the batches of one with the doubled batch
    if shuffle:
        assert len({len(draws) for draws in drawn}) == 1  # or ranks would wait for one another for ever
    else:
        assert sorted(draw.item for draws in drawn for draw in draws) == list(range(length))


def test_epochs_differ_and_evaluation_repeats():
    def draws(shuffle, epoch):
        return list(SeededSampler(range(20), shuffle=shuffle, seed=1, epoch=lambda: epoch))

    assert draws(True, 0) != draws(True, 1)
    assert draws(True, 3) == draws(True, 3)
    assert draws(False, 0) == draws(False, 1)
    assert {draw.seed for draw in draws(False, 0)}.isdisjoint({draw.seed for draw in draws(True, 0)})


def test_the_epoch_is_read_when_iterated():
    epoch = 0
    sampler = SeededSampler(range(20), shuffle=True, seed=1, epoch=lambda: epoch)
    first = list(sampler)
    epoch = 1
    assert list(sampler) != first
