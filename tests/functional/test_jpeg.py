import io

import numpy as np
import pytest
from PIL import Image

from functional.jpeg import estimate_quality, quantization_tables

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def written_tables(quality: int, mode: str = "RGB", **options: object) -> list[list[int]]:
    buffer = io.BytesIO()
    IMAGE.convert(mode).save(buffer, "JPEG", quality=quality, **options)
    return list(Image.open(buffer).quantization.values())


@pytest.mark.parametrize("quality", range(1, 101))
def test_tables_are_those_that_libjpeg_writes(quality):
    np.testing.assert_array_equal(quantization_tables(quality), written_tables(quality))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_estimate_is_exact_at_every_quality(subsampling):
    for quality in range(1, 101):
        assert estimate_quality(written_tables(quality, subsampling=subsampling)) == (quality, True)


def test_one_table_of_a_grey_image_suffices():
    for quality in range(1, 101):
        tables = written_tables(quality, mode="L")
        assert len(tables) == 1
        assert estimate_quality(tables) == (quality, True)
        assert estimate_quality(tables[0]) == (quality, True)


def test_chroma_decides_where_luma_is_custom():
    luma, chroma = quantization_tables(80)
    assert estimate_quality([luma, chroma, chroma]) == (80, True)
    assert estimate_quality([luma + 1, chroma]) == (80, False)
    quality, standard = estimate_quality([quantization_tables(90)[0], quantization_tables(70)[1]])
    assert 70 < quality < 90
    assert not standard


def test_search_does_not_stop_at_a_local_minimum():
    # Large steps in luma, tiny ones in chroma: walking down from 100, the distance rises before it falls.
    tables = np.stack([quantization_tables(12)[0], np.ones(64, dtype=int)])
    distances = [np.square(quantization_tables(q) - tables).mean() for q in range(1, 101)]
    assert estimate_quality(tables) == (int(np.argmin(distances)) + 1, False)


@pytest.mark.parametrize("quality", [0, 101, -3, 75.5])
def test_quality_out_of_range_is_refused(quality):
    with pytest.raises(ValueError, match="1 to 100"):
        quantization_tables(quality)


@pytest.mark.parametrize("tables", [np.ones(63), np.ones((0, 64)), np.ones((2, 8, 8)), []])
def test_malformed_tables_are_refused(tables):
    with pytest.raises(ValueError, match="shape"):
        estimate_quality(tables)
