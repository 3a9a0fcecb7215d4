import hashlib
import io
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image, ImageFile

from datamodules import scan as scan_module
from datamodules.scan import SCAN_COLUMNS, format_report, list_images, scan_images, write_report


def noise(height=40, width=56, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(form, image=None, **options):
    buffer = io.BytesIO()
    (image or noise()).save(buffer, form, **options)
    return buffer.getvalue()


def scan_bytes(tmp_path, **files):
    """Scan files made of bytes; keyword names become file names."""
    for key, data in files.items():
        (tmp_path / key).write_bytes(data)
    frame = scan_images(tmp_path, list(files), cache=None, progress=False)
    return frame.set_index("path")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(100):
        noise(8, 8, number).save(root / f"{number:03}.jpg", quality=number + 1)
    return root


@pytest.fixture
def reads(monkeypatch):
    """Paths that are read from disk."""
    seen = []
    original = scan_module._scan_file

    def counted(root, path, verify_pixels):
        seen.append(path)
        return original(root, path, verify_pixels)

    monkeypatch.setattr(scan_module, "_scan_file", counted)
    return seen


def test_list_images(tmp_path):
    for name in ("b.PNG", "a/x.jpeg", "a/y.JFIF", ".hidden.png", "__MACOSX/z.png", "a/._x.jpeg", ".git/c.png", "t.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked").symlink_to(tmp_path / "a", target_is_directory=True)
    assert list_images(tmp_path) == ["a/x.jpeg", "a/y.JFIF", "b.PNG", "linked/x.jpeg", "linked/y.JFIF"]
    with pytest.raises(NotADirectoryError):
        list_images(tmp_path / "none")


def test_every_quality_is_found(folder):
    frame = scan_images(folder, list_images(folder), cache=None, progress=False)
    assert tuple(frame.columns) == SCAN_COLUMNS
    assert frame["quality"].tolist() == list(range(1, 101))
    assert frame["standard_tables"].all()
    assert set(frame["subsampling"]) == {"4:2:0"}
    assert frame["error"].isna().all()
    assert frame["quality"].dtype == "Int64"
    assert frame["standard_tables"].dtype == "boolean"
    data = (folder / "041.jpg").read_bytes()
    row = frame.set_index("path").loc["041.jpg"]
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert (row["bytes"], row["width"], row["height"], row["mode"], row["orientation"]) == (len(data), 8, 8, "RGB", 1)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_subsampling(tmp_path, subsampling, progressive):
    data = encoded("JPEG", subsampling=subsampling, quality=77, progressive=progressive)
    row = scan_bytes(tmp_path, a=data).loc["a"]
    assert (row["subsampling"], row["quality"], row["standard_tables"]) == (subsampling, 77, True)


def test_other_jpegs(tmp_path):
    custom = [[7] * 64, [9] * 64]
    frame = scan_bytes(
        tmp_path,
        grey=encoded("JPEG", noise().convert("L"), quality=63),
        cmyk=encoded("JPEG", noise().convert("CMYK"), quality=88),
        rgb=encoded("JPEG", keep_rgb=True, quality=91),
        custom=encoded("JPEG", qtables=custom),
        mpo=encoded("MPO", save_all=True, append_images=[noise(seed=1)], quality=70),
    )
    assert frame["quality"].drop("custom").tolist() == [63, 88, 91, 70]
    assert frame["standard_tables"].tolist() == [True, True, True, False, True]
    assert frame["subsampling"].tolist() == ["gray", "4:4:4", "4:4:4", "4:2:0", "4:2:0"]
    assert set(frame["format"]) == {"JPEG"}
    assert frame["mode"].tolist() == ["L", "CMYK", "RGB", "RGB", "RGB"]


def test_unusual_sampling_factors_are_named():
    assert scan_module._subsampling([(1, 2), (1, 1), (1, 1)]) == "4:4:0"
    assert scan_module._subsampling([(4, 1), (1, 1), (1, 1)]) == "4:1:1"
    assert scan_module._subsampling([(2, 2), (2, 1), (1, 2)]) == "2x2,2x1,1x2"
    assert scan_module._subsampling([(3, 1), (2, 1), (2, 1)]) == "3x1,2x1,2x1"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_image(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    row = scan_bytes(tmp_path, a=encoded(form, exif=exif)).loc["a"]
    assert (row["width"], row["height"]) == ((40, 56) if orientation >= 5 else (56, 40))
    assert (row["orientation"], row["format"]) == (orientation, form)


def test_other_formats_have_no_quality(tmp_path):
    wide = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    frame = scan_bytes(
        tmp_path,
        png=encoded("PNG", wide),
        la=encoded("PNG", noise().convert("LA")),
        palette=encoded("PNG", noise().convert("P"), transparency=3),
        webp=encoded("WEBP"),
        bmp=encoded("BMP"),
        gif=encoded("GIF", save_all=True, append_images=[noise(seed=1)]),
    )
    assert frame["error"].isna().all()
    assert frame[["quality", "standard_tables", "subsampling"]].isna().all(axis=None)
    assert frame["mode"].tolist()[:4] == ["I;16", "LA", "P", "RGB"]
    assert frame["format"].tolist() == ["PNG", "PNG", "PNG", "WEBP", "BMP", "GIF"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("lost", [14, 100, 0.5, 0.9])
def test_truncated_files_are_found(tmp_path, form, lost):
    data = encoded(form)
    kept = len(data) - (lost if lost >= 1 else int(lost * len(data)))
    frame = scan_bytes(tmp_path, whole=data, cut=data[:kept])
    assert frame.loc["whole", "error"] is None
    assert isinstance(frame.loc["cut", "error"], str)
    assert "\n" not in frame.loc["cut", "error"]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_half_downloaded_files_filled_with_zeros_are_found(tmp_path, form):
    data = encoded(form)
    assert scan_bytes(tmp_path, a=data[: len(data) // 2] + bytes(len(data) // 2)).loc["a", "error"] is not None


def test_flipped_bits_in_a_png_are_found(tmp_path):
    data = encoded("PNG")
    rng = np.random.default_rng(0)
    files = {}
    for number, at in enumerate(rng.integers(40, len(data) - 16, 40)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.integers(8)
        files[f"f{number}"] = bytes(flipped)
    assert scan_bytes(tmp_path, **files)["error"].notna().all()


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_no_damage_stops_the_scan(tmp_path, form, recwarn):
    data = encoded(form)
    rng = np.random.default_rng(0)
    files = {}
    for number in range(60):
        flipped = bytearray(data)
        for at in rng.integers(0, min(len(data), 700), 3):
            flipped[at] = rng.integers(256)
        files[f"f{number}"] = bytes(flipped)
    frame = scan_bytes(tmp_path, **files)
    assert len(frame) == 60
    assert all(error is None or "\n" not in error for error in frame["error"])


def test_unusable_files_have_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    (tmp_path / "folder.png").mkdir()
    files = {
        "empty.png": b"",
        "text.png": b"just text\n" * 20,
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "warned.png": encoded("PNG", noise(60, 60)),
        "bomb.png": encoded("PNG", noise(99, 99)),
        "good.png": encoded("PNG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [*files, "absent.png", "folder.png"]
    frame = scan_images(tmp_path, paths, cache=None, progress=False)
    errors = dict(zip(frame["path"], frame["error"], strict=True))
    assert errors["empty.png"] == "empty"
    assert errors["absent.png"] == "missing"
    assert errors["folder.png"].startswith("unreadable")
    assert errors["text.png"] == errors["script.jpg"]
    assert "not an image" in errors["text.png"]
    assert errors["warned.png"] == errors["bomb.png"] == "too large: more than 3000 pixels"
    assert errors["good.png"] is None

    report = format_report(frame)
    assert report.startswith("7 of 8 files")
    assert "  empty.png: empty" in report.splitlines()
    write_report(frame, tmp_path / "new" / "report.csv")
    table = pd.read_csv(tmp_path / "new" / "report.csv")
    assert table["path"].tolist() == [path for path in paths if path != "good.png"]
    assert format_report(frame[frame["path"] == "good.png"]) == "all 1 files can be read"


def test_pillow_is_strict_during_the_scan_and_as_before_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filters = list(warnings.filters)
    frame = scan_bytes(tmp_path, cut=encoded("JPEG")[:-500])
    assert frame.loc["cut", "error"].startswith("truncated")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert warnings.filters == filters


def test_headers_alone(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG", quality=91)[:-500])
    row = scan_images(tmp_path, ["cut.jpg"], cache=None, verify_pixels=False, progress=False).iloc[0]
    assert (row["error"], row["quality"], row["width"]) == (None, 91, 56)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_result_keeps_the_order_of_the_paths(folder, workers):
    paths = list_images(folder)[::-1]
    paths = [*paths, paths[0], str(folder / paths[1])]
    frame = scan_images(folder, paths, cache=None, workers=workers, progress=False)
    assert frame["path"].tolist() == paths
    assert frame["quality"].tolist() == [*range(100, 0, -1), 100, 99]
    with pytest.raises(ValueError, match="workers"):
        scan_images(folder, paths, cache=None, workers=0)


def test_no_paths(tmp_path):
    frame = scan_images(tmp_path, [], cache=tmp_path / "c.csv", progress=False)
    assert frame.empty
    assert tuple(frame.columns) == SCAN_COLUMNS


def test_cached_files_are_not_read_again(folder, tmp_path, reads):
    (folder / 'bad, "name".png').write_bytes(b"x")
    (folder / "NA").write_bytes(encoded("PNG", noise(8, 8).convert("1")))
    paths = [*list_images(folder), "NA"]
    cache = tmp_path / "sub" / "scan.csv"
    first = scan_images(folder, paths, cache=cache, progress=False)
    assert sorted(reads) == sorted(paths)
    reads.clear()
    second = scan_images(folder, paths, cache=cache, progress=False)
    assert reads == []
    pd.testing.assert_frame_equal(first, second)
    assert second["error"].isna().sum() == 101
    assert [entry.name for entry in cache.parent.iterdir()] == ["scan.csv"]  # no temporary file is left


def test_only_changed_and_new_files_are_read_again(folder, tmp_path, reads):
    cache = tmp_path / "scan.csv"
    paths = list_images(folder)
    scan_images(folder, paths, cache=cache, progress=False)
    noise(8, 8, 5).save(folder / "005.jpg", quality=99)
    os.utime(folder / "006.jpg", ns=(1, 1))
    (folder / "007.jpg").unlink()
    noise(9, 9).save(folder / "new.png")
    reads.clear()
    frame = scan_images(folder, [*paths, "new.png"], cache=cache, progress=False).set_index("path")
    assert reads == ["005.jpg", "006.jpg", "007.jpg", "new.png"]
    assert frame.loc["005.jpg", "quality"] == 99
    assert frame.loc["007.jpg", "error"] == "missing"
    reads.clear()
    scan_images(folder, paths[:3], cache=cache, progress=False)  # a part neither reads nor forgets the rest
    scan_images(folder, [*paths, "new.png"], cache=cache, progress=False)
    assert reads == ["007.jpg"]


def test_unverified_results_do_not_pass_for_verified_ones(tmp_path, reads):
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG")[:-500])
    cache = tmp_path / "scan.csv"
    errors = [
        scan_images(tmp_path, ["cut.jpg"], cache=cache, verify_pixels=verify, progress=False)["error"].iloc[0]
        for verify in (False, True, False)
    ]
    assert errors[0] is None
    assert errors[1] == errors[2]
    assert len(reads) == 2


def test_an_interrupted_scan_keeps_what_it_has(folder, tmp_path, monkeypatch, reads):
    cache = tmp_path / "scan.csv"
    counted = scan_module._scan_file

    def interrupted(root, path, verify_pixels):
        if path == "070.jpg":
            raise KeyboardInterrupt
        return counted(root, path, verify_pixels)

    paths = list_images(folder)
    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "_scan_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scan_images(folder, paths, cache=cache, workers=2, progress=False)
    kept = pd.read_csv(cache)["path"].tolist()
    assert kept == paths[:64]
    reads.clear()
    frame = scan_images(folder, paths, cache=cache, progress=False)
    assert sorted(reads) == paths[64:]
    assert frame["quality"].tolist() == list(range(1, 101))


def damage(text):
    lines = text.splitlines()
    return {
        "binary": b"\x00\xff\xfe" * 50,
        "empty": b"",
        "other columns": b"path,label\na.jpg,0\n",
        "cut line": text[: len(text) - 4].encode(),
        "words": text.replace(",8,8,", ",wide,8,", 1).encode(),
        "repeated": "\n".join([*lines, lines[-1], ""]).encode(),
    }


@pytest.mark.parametrize("kind", ["binary", "empty", "other columns", "cut line", "words", "repeated"])
def test_a_corrupt_cache_is_ignored_with_a_warning(folder, tmp_path, reads, caplog, kind):
    cache = tmp_path / "scan.csv"
    paths = list_images(folder)
    first = scan_images(folder, paths, cache=cache, progress=False)
    cache.write_bytes(damage(cache.read_text())[kind])
    reads.clear()
    pd.testing.assert_frame_equal(scan_images(folder, paths, cache=cache, progress=False), first)
    assert len(reads) == 100
    assert "is ignored" in caplog.text
    reads.clear()
    scan_images(folder, paths, cache=cache, progress=False)
    assert reads == []


def test_a_cache_that_cannot_be_written_costs_only_itself(folder, tmp_path, caplog):
    (tmp_path / "file").touch()
    frame = scan_images(folder, list_images(folder), cache=tmp_path / "file" / "scan.csv", progress=False)
    assert len(frame) == 100
    assert "cannot be written" in caplog.text


def test_progress_bar(folder, capfd):
    scan_images(folder, list_images(folder), cache=None)
    assert "100/100" in capfd.readouterr().err


def test_tables_and_exif_are_told(tmp_path):
    pixels = np.full((16, 16, 3), 90, dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "a camera"
    for name, options in {
        "a.jpg": {"quality": 75, "exif": exif},
        "b.jpg": {"quality": 75},
        "c.jpg": {"quality": 80},
        "d.png": {},
    }.items():
        Image.fromarray(pixels).save(tmp_path / name, **options)
    scan = scan_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.png"], cache=None).set_index("path")
    assert scan["exif"].tolist() == [True, False, False, False]
    assert scan.loc["a.jpg", "tables"] == scan.loc["b.jpg", "tables"] != scan.loc["c.jpg", "tables"]
    assert scan.loc["d.png", "tables"] is None
