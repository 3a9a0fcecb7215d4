import pandas as pd
import pytest
from PIL import Image

from datamodules.manifest import (
    MANIFEST_COLUMNS,
    ManifestError,
    add_scan,
    manifest_from_folder,
)
from datamodules.manifest_csv import manifest_from_csv
from datamodules.scan import scan_images


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def rows(root):
    """Path to (label, generator, class, split)."""
    frame = manifest_from_folder(root)
    assert frame.columns.tolist() == ["path", "label", "generator", "class", "split", "group"]
    assert frame["label"].dtype == "int64"
    assert frame["group"].isna().all()
    columns = (frame[name].tolist() for name in ("label", "generator", "class", "split"))
    return dict(zip(frame["path"], zip(*columns, strict=True), strict=True))


def test_plain_class_folders(tmp_path):
    tree(tmp_path, "REAL/cat/1.jpg", "REAL/animal/dog/1.jpg", "FAKE/2.PNG", "FAKE/cat/.hidden.jpg", "readme.txt")
    assert rows(tmp_path) == {
        "REAL/cat/1.jpg": (0, "real", "cat", None),
        "REAL/animal/dog/1.jpg": (0, "real", "animal/dog", None),
        "FAKE/2.PNG": (1, "fake", None, None),
    }


REALS = ["real", "Reals", "nature", "natural", "0_real", "0", "Authentic", "genuine"]
FAKES = ["fake", "FAKES", "ai", "synthetic", "generated", "1_fake", "1", "deepfake"]


@pytest.mark.parametrize(("real", "fake"), list(zip(REALS, FAKES, strict=True)))
def test_names_of_class_folders(tmp_path, real, fake):
    tree(tmp_path, f"{real}/a.jpg", f"{fake}/b.jpg")
    assert sorted(row[0] for row in rows(tmp_path).values()) == [0, 1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/real/a.jpg", (0, "real", None, "train")),
        ("Validation/fake/cat/a.jpg", (1, "fake", "cat", "val")),
        ("fake/testing/a.jpg", (1, "fake", None, "test")),
        ("fake/valid/cat/a.jpg", (1, "fake", "cat", "val")),
        ("ADM/fake/a.jpg", (1, "ADM", None, None)),
        ("ADM/val/ai/a.jpg", (1, "ADM", None, "val")),
        ("ADM/val/nature/a.jpg", (0, "real", None, "val")),
        ("train/ADM/fake/cat/a.jpg", (1, "ADM", "cat", "train")),
        ("ADM/imagenet_ai/train/ai/a.jpg", (1, "fake", None, "train")),
        ("fake/0/a.jpg", (1, "fake", "0", None)),
        ("1/real/a.jpg", (0, "real", None, None)),
    ],
)
def test_layouts(tmp_path, path, expected):
    tree(tmp_path, path, "other/real/r.jpg", "other/fake/f.jpg")
    assert rows(tmp_path)[path] == expected


def test_images_outside_class_folders_are_left_out(tmp_path, caplog):
    tree(tmp_path, "real/a.jpg", "fake/b.jpg", "preview.png", "docs/c.png")
    assert set(rows(tmp_path)) == {"real/a.jpg", "fake/b.jpg"}
    assert "2 images outside class folders" in caplog.text


def refusal(root):
    with pytest.raises(ManifestError) as error:
        manifest_from_folder(root)
    assert isinstance(error.value, ValueError)
    return str(error.value)


def test_missing_root(tmp_path):
    assert refusal(tmp_path / "none") == f"data.root={tmp_path / 'none'} does not exist; pass --data.root FOLDER."
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(tmp_path / "file")


def test_no_images(tmp_path):
    tree(tmp_path, "real/a.txt", "fake/b.txt")
    assert "holds no images (.bmp" in refusal(tmp_path)


def test_empty_class_folder(tmp_path):
    tree(tmp_path, "train/real/a.jpg", "train/fake/b.jpg", "test/real/c.jpg", "test/fake/notes.txt")
    assert f"{tmp_path / 'test' / 'fake'} holds no images" in refusal(tmp_path)


def test_constant_labels(tmp_path):
    tree(tmp_path, "real/a.jpg", "other/b.jpg")
    message = refusal(tmp_path)
    assert message.startswith("Constant labels")
    assert "is real" in message


def test_no_class_folders(tmp_path):
    tree(tmp_path, "cats/a.jpg", "dogs/b.jpg")
    message = refusal(tmp_path)
    assert "it holds cats, dogs" in message
    assert "--data.manifest" in message


@pytest.mark.parametrize("inside", ["REAL", "REAL/cat", "FAKE"])
def test_root_too_low(tmp_path, inside):
    tree(tmp_path, "REAL/cat/a.jpg", "REAL/cat/0/c.jpg", "REAL/cat/1/d.jpg", "FAKE/b.jpg")
    message = refusal(tmp_path / inside)
    assert "Wrong folder level" in message
    assert message.endswith(f"--data.root {tmp_path}")


def test_root_is_a_lone_class_folder(tmp_path):
    tree(tmp_path, "fake/a.jpg")
    assert refusal(tmp_path / "fake").endswith(f"--data.root {tmp_path}")


@pytest.mark.parametrize(
    ("paths", "mend"),
    [
        (("a/b/real/1.jpg", "a/b/fake/2.jpg"), "a/b"),
        (("a/ADM/real/1.jpg", "a/GLIDE/fake/2.jpg"), "a"),
        (("a/b/train/c/d/real/1.jpg", "e/fake/2.jpg"), "a/b"),
    ],
)
def test_root_too_high(tmp_path, paths, mend):
    message = refusal(tree(tmp_path, *paths))
    assert "Wrong folder level" in message
    assert message.endswith(f"--data.root {tmp_path / mend}")


def test_one_folder_above_the_class_folders_may_be_a_generator(tmp_path, caplog):
    tree(tmp_path, "ADM/train/nature/1.jpg", "ADM/train/ai/2.jpg")
    assert rows(tmp_path)["ADM/train/ai/2.jpg"] == (1, "ADM", None, "train")
    assert f"if it is not, pass --data.root {tmp_path / 'ADM'}" in caplog.text


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_few_columns(tmp_path):
    path = written(tmp_path, "\ufefflabel,path\nReal,a.jpg\n AI ,sub/../b.jpg\n\n0,./c.jpg\n1,/elsewhere/d.jpg\n")
    frame = manifest_from_csv(path)
    assert frame["path"].tolist() == ["a.jpg", "b.jpg", "c.jpg", "/elsewhere/d.jpg"]
    assert frame["label"].tolist() == [0, 1, 0, 1]
    assert frame["generator"].tolist() == ["real", "fake", "real", "fake"]
    assert frame[["class", "split", "group"]].isna().all(axis=None)
    assert frame.columns.tolist() == ["path", "label", "generator", "class", "split", "group"]


def test_csv_with_all_columns(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    path = written(
        tmp_path,
        "path,label,generator,class,split,group,width,height,format,quality,subsampling\n"
        f"{root}/a.jpg,nature,nature,cat,Validation,g1,64,48,JPEG,96,4:2:0\n"
        '"b, c.png",fake,ADM,,testing,,64,64,PNG,,\n',
    )
    frame = manifest_from_csv(path, root)
    assert frame["path"].tolist() == ["a.jpg", "b, c.png"]
    assert frame["generator"].tolist() == ["real", "ADM"]
    assert frame["split"].tolist() == ["val", "test"]
    assert frame["class"].tolist() == ["cat", None]
    assert frame["quality"].dtype == "Int64"
    assert frame["quality"].isna().tolist() == [False, True]
    assert frame["width"].sum() == 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,kind\na.jpg,real\n", "line 1: the header lacks column 'label'"),
        (
            "path,label,kind\na.jpg,real,x\n",
            "line 1: the header has the unknown column 'kind'; accepted are path, label",
        ),
        ("path,label,path\na.jpg,real,b.jpg\n", "line 1: the header repeats the column 'path'"),
        ("path,label\na.jpg,real\nb.jpg,maybe\n", "line 3, column label: 'maybe' is not one of real, nature, 0, fake"),
        ("path,label\na.jpg,\n", "line 2, column label: ''"),
        ("path,label\n,real\n", "line 2, column path: empty"),
        ("path,label\na.jpg,real,x\n", "line 2: 3 values for 2 columns"),
        ("path,label,split\na.jpg,real,dev\n", "line 2, column split: 'dev' is not one of train"),
        ("path,label,width\na.jpg,real,wide\n", "line 2, column width: 'wide' is not a whole number"),
        ("path,label,standard_tables\na.jpg,real,2\n", "column standard_tables: '2' is not one of true, false"),
        ("path,label,generator\na.jpg,fake,real\n", "line 2, column generator: 'real' for a fake"),
        ("path,label\na.jpg,real\nb.jpg,fake\n./a.jpg,real\n", "line 4, column path: 'a.jpg' is already on line 2"),
        ("path,label\n", "has no rows"),
        ("", "lacks column 'path', 'label'"),
    ],
)
def test_bad_csv_is_refused(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ManifestError) as error:
        manifest_from_csv(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_missing_csv_or_root(tmp_path):
    with pytest.raises(ManifestError, match="does not exist; pass"):
        manifest_from_csv(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="none does not exist"):
        manifest_from_csv(written(tmp_path, "path,label\na,0\n"), tmp_path / "none")


@pytest.fixture
def scanned(tmp_path):
    root = tmp_path / "data"
    tree(root, *(f"{name}/{number}.png" for name in ("real", "fake") for number in range(4)))
    for path in root.rglob("*.png"):
        Image.new("RGB", (20, 10)).save(path)
    Image.new("RGB", (8, 8)).save(root / "real" / "4.jpg", quality=85)
    for number in (1, 2):
        (root / "fake" / f"{number}.png").write_bytes(b"damage")
    manifest = manifest_from_folder(root).assign(subset="x")
    return manifest, scan_images(root, manifest["path"].tolist(), cache=None, progress=False)


def test_scan_is_joined_and_bad_files_are_skipped(scanned, tmp_path, caplog):
    manifest, scan = scanned
    report = tmp_path / "report.csv"
    frame = add_scan(manifest[::-1], scan, "skip", report)
    assert frame["path"].tolist() == [
        path for path in manifest["path"][::-1] if path not in ("fake/1.png", "fake/2.png")
    ]
    assert frame.index.tolist() == list(range(7))
    assert set(frame.columns) == {*MANIFEST_COLUMNS, "subset"}
    assert frame["width"].dtype == "int64"
    assert frame.set_index("path").loc["real/4.jpg", "quality"] == 85
    assert pd.read_csv(report)["path"].tolist() == ["fake/1.png", "fake/2.png"]
    assert f"2 of 9 files cannot be used and are left out; they are listed in {report}" in caplog.text


def test_scan_replaces_what_a_csv_claims(scanned):
    manifest, scan = scanned
    frame = add_scan(manifest.assign(width=1, quality=1, format="GIF"), scan, "skip", None)
    assert set(frame["width"]) == {8, 20}
    assert "width_x" not in frame


def test_bad_files_can_refuse_the_run(scanned, tmp_path):
    manifest, scan = scanned
    report = tmp_path / "report.csv"
    with pytest.raises(ManifestError) as error:
        add_scan(manifest, scan, "raise", report)
    assert "2 of 9 files cannot be used" in str(error.value)
    assert "fake/1.png: unreadable" in str(error.value)
    assert "--data.on_corrupt skip" in str(error.value)
    assert str(report) in str(error.value)
    assert len(pd.read_csv(report)) == 2


def test_nothing_left(scanned):
    manifest, scan = scanned
    bad = scan["error"].notna()
    with pytest.raises(ManifestError, match="2 of 2 files"):
        add_scan(manifest[bad.to_numpy()], scan, "skip", None)


def test_a_clean_scan_writes_no_report_but_clears_an_old_one(scanned, tmp_path):
    manifest, scan = scanned
    good = scan["error"].isna().to_numpy()
    report = tmp_path / "report.csv"
    add_scan(manifest[good], scan, "raise", report)
    assert not report.exists()
    add_scan(manifest, scan, "skip", report)
    add_scan(manifest[good], scan, "raise", report)
    assert pd.read_csv(report).empty


def test_add_scan_takes_bare_rows_and_checks_its_arguments(scanned):
    manifest, scan = scanned
    bare = pd.DataFrame({"path": manifest["path"], "label": -1})
    assert len(add_scan(bare, scan, "skip", None)) == 7
    with pytest.raises(ValueError, match="on_corrupt"):
        add_scan(bare, scan, "ignore", None)
    with pytest.raises(ValueError, match="fake/0"):
        add_scan(bare, scan[1:], "skip", None)
