"""The audit: planted shortcuts are found, named and taken out; clean data stay clean."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import write_image
from PIL import ExifTags, Image

from datamodules import GenImageDataModule, ManifestError, RealFakeDataModule
from datamodules.audit import Leakage, audit, measure
from datamodules.audit.remedies import candidates


def picture(seed: int, side: int = 96) -> np.ndarray:
    """Colours with a 1/f spectrum, uint8 `(side, side, 3)`."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3, side, side))) / frequency**1.2).real
    field = field / field.std() * 40 + 128 + rng.normal(0, 2, field.shape)
    return field.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def prepared(root: Path, **options: object) -> RealFakeDataModule:
    data = RealFakeDataModule(root=str(root), image_size=32, num_workers=0, **options)
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def jpeg_against_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 80 pictures as JPEG 96 (real) and as PNG (fake), each pair in one group."""
    root = tmp_path_factory.mktemp("codec")
    rows = []
    for index in range(80):
        write_image(root / "real" / f"{index}.jpg", picture(index), quality=96)
        write_image(root / "fake" / f"{index}.png", picture(index))
        rows += [(f"real/{index}.jpg", 0, index), (f"fake/{index}.png", 1, index)]
    pd.DataFrame(rows, columns=["path", "label", "group"]).to_csv(root / "list.csv", index=False)
    return root


def test_codec_alone_is_found_and_taken_out(jpeg_against_png):
    """Sheet A8 of the paper's analogue: 100 % before, chance after both are JPEG 96."""
    manifest = str(jpeg_against_png / "list.csv")
    raw, _, _ = measure(prepared(jpeg_against_png, manifest=manifest).training_view())
    assert raw.leaks["codec"].auroc == raw.leaks["metadata"].auroc == 1
    assert raw.leaks["size"].auroc == 0.5
    assert raw.worst is not None
    aligned, _, traces = measure(prepared(jpeg_against_png, manifest=manifest, fake_quality=96).training_view())
    assert traces is not None
    assert set(traces.quality.tolist()) == {96}
    for probe in ("metadata", "codec", "spectrum"):
        assert aligned.leaks[probe].auroc == pytest.approx(0.5, abs=0.04), probe
    assert aligned.worst is None


def test_a_fix_is_tried_before_it_is_recommended(jpeg_against_png):
    report = audit(prepared(jpeg_against_png, manifest=str(jpeg_against_png / "list.csv")), per_label=40)
    assert report.fix is not None
    assert report.fix.settings == {"selection": "quality_matched"}
    assert report.views["after the fix"].worst is None
    assert report.views["as trained"].worst is not None
    found = " ".join(report.verdict)
    assert "file formats of real and fake differ" in found
    assert "JPEG histories" in found
    assert "sizes differ" not in found


def test_size_alone_is_found_by_metadata_and_spectrum(tmp_path):
    """Sheet B7: the same pictures at 128 and, enlarged, at 178 pixels."""
    for index in range(40):
        image = Image.fromarray(picture(index, 128))
        write_image(tmp_path / "real" / f"{index}.png", np.asarray(image))
        enlarged = image.resize((178, 178), Image.Resampling.BICUBIC)
        write_image(tmp_path / "fake" / f"{index}.png", np.asarray(enlarged))
    leakage, _, _ = measure(prepared(tmp_path).training_view())
    assert leakage.leaks["size"].auroc == 1
    assert leakage.leaks["spectrum"].auroc > 0.97
    assert leakage.leaks["codec"].auroc == leakage.leaks["quality"].auroc == 0.5


def test_alike_files_are_clean_whatever_they_show(tmp_path):
    for index in range(60):
        image = picture(index, 64) if index % 2 else np.asarray(Image.fromarray(picture(index, 16)).resize((64, 64)))
        write_image(tmp_path / ("real" if index % 2 else "fake") / f"{index}.jpg", image, quality=75)
    report = audit(prepared(tmp_path))
    for probe in ("metadata", "format", "quality", "chroma", "tables", "size", "codec"):
        assert report.views["as trained"].leaks[probe].auroc == 0.5
    assert report.verdict[0].startswith("No shortcut found")
    assert not report.remedies


def test_png_files_that_were_cut_out_of_jpegs_are_found_by_their_pixels(tmp_path):
    for index in range(30):
        write_image(tmp_path / "tmp.jpg", picture(index), quality=80)
        was_jpeg = np.asarray(Image.open(tmp_path / "tmp.jpg"))
        write_image(tmp_path / "data/real" / f"{index}.png", was_jpeg[5:85, 3:83])
        write_image(tmp_path / "data/fake" / f"{index}.png", picture(100 + index)[5:85, 3:83])
    leakage, _, _ = measure(prepared(tmp_path / "data").training_view())
    assert leakage.leaks["metadata"].auroc == 0.5
    assert leakage.leaks["codec"].auroc == 1


def test_genimage_is_answered_with_the_papers_selection(tmp_path):
    """Reals of many sizes and some qualities, fakes PNG of one size: constrained, with its window around the fakes."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(400):
        side, quality = int(rng.choice([60, 96, 100, 160])), int(rng.choice([75, 96, 96]))
        for label, name in (("nature", f"{index}.JPEG"), ("ai", f"{index}.png")):
            path = Path("sd", "imagenet_x", "train" if index % 10 else "val", label, name)
            options = {"quality": quality} if label == "nature" else {}
            write_image(tmp_path / path, picture(index, side if label == "nature" else 96), **options)
            rows.append((path.as_posix(), "sd" if label == "ai" else "nature", index % 2, path.parts[2]))
    pd.DataFrame(rows, columns=["path", "generator", "class", "mode"]).to_csv(tmp_path / "metadata.csv", index=False)
    data = GenImageDataModule(root=str(tmp_path), image_size=32, num_workers=0)
    data.prepare_data()
    report = audit(data, per_label=60)
    assert report.fix is not None
    assert report.fix.arguments == {"selection": "constrained", "quality": 96, "size_window": [84, 104]}
    counts = report.fix.counts
    assert counts is not None
    assert counts["real"].is_monotonic_decreasing
    assert counts.iloc[-1]["real"] == counts.iloc[-1]["fake"]
    assert report.views["after the fix"].worst is None


def test_sizes_and_qualities_below_all_are_candidates_for_recompressed_fakes():
    rows = pd.DataFrame(
        {
            "label": [0, 1] * 20,
            "format": "JPEG",
            "quality": [75, 92] * 20,
            "width": [1024, 512] * 20,
            "height": [1024, 512] * 20,
            "class": None,
        }
    )
    assert next(candidates(rows, 64, size_leaks=True)) == {
        "common_size": 256,
        "fake_quality": 90,
        "reencode_reals": True,
    }
    same = rows.assign(width=512, height=512)
    assert next(candidates(same, 64, size_leaks=False)) == {"fake_quality": 50, "reencode_reals": True}
    assert next(candidates(rows, 300, size_leaks=True))["image_size"] == 256


def test_few_images_give_no_figure(tmp_path):
    for index in range(5):
        for label in ("real", "fake"):
            write_image(tmp_path / label / f"{index}.png", picture(2 * index + (label == "fake"), 32))
    report = audit(prepared(tmp_path, val_fraction=0.2))
    assert report.views["as trained"].leaks == {}
    assert "Too few training images to say anything: 3 real and 3 fake" in report.verdict[0]
    assert "Too few training images" in report.page(None)


def pair_of_folders(root: Path, count: int, real: dict, fake: dict, **same: object) -> Path:
    """Pictures of two classes that differ in how they are saved."""
    for index in range(count):
        for label, options in (("real", real), ("fake", fake)):
            options = {**same, **options}
            image = picture(2 * index + (label == "fake"), 64)
            if options.pop("gray", False):
                image = image[..., 0]
            write_image(root / label / f"{index}.{options.pop('suffix', 'jpg')}", image, **options)
    return root


def test_grey_images_are_found_and_no_re_encoding_is_said_to_hide_them(tmp_path):
    report = audit(prepared(pair_of_folders(tmp_path, 40, {"gray": True}, {}, quality=90)), per_label=40)
    assert report.views["as trained"].leaks["colour"].auroc == 1
    assert report.remedies
    assert report.fix is None
    assert "None of the settings tried takes it out." in report.verdict
    assert any("grey" in sentence for sentence in report.verdict)


def test_tables_of_two_makers_are_told_apart(tmp_path):
    table = [16 + 3 * (index // 8 + index % 8) for index in range(64)]
    other = [value + (index % 3 == 0) for index, value in enumerate(table)]
    root = pair_of_folders(tmp_path, 40, {"qtables": [table, table]}, {"qtables": [other, other]})
    leaks = measure(prepared(root).training_view(), spectrum=False)[0].leaks
    assert leaks["tables"].auroc == leaks["metadata"].auroc == 1
    assert leaks["format"].auroc == leaks["chroma"].auroc == 0.5


def test_few_groups_are_not_called_clean(tmp_path):
    pair_of_folders(tmp_path, 40, {"quality": 90}, {"suffix": "png"})
    for groups in (1, 5):
        rows = [(f"{label}/{i}.{end}", y, f"{label}{i % groups}") for i in range(40) for label, end, y in KINDS]
        pd.DataFrame(rows, columns=["path", "label", "group"]).to_csv(tmp_path / "groups.csv", index=False)
        manifest = str(tmp_path / "groups.csv")
        given = {"val_fraction": 0.0, "test_fraction": 0.0}
        report = audit(prepared(tmp_path, manifest=manifest, **given), per_label=20)
        text = " ".join(report.verdict)
        assert "No shortcut" not in text
        assert ("in 1 and 1 groups" if groups == 1 else "too few images or groups to be sure") in text


KINDS = (("real", "jpg", 0), ("fake", "png", 1))


def test_one_file_in_both_classes_and_webp_are_remarked(tmp_path):
    pair_of_folders(tmp_path, 30, {}, {}, suffix="webp", quality=90)
    (tmp_path / "fake/twin.webp").write_bytes((tmp_path / "real/0.webp").read_bytes())
    verdict = audit(prepared(tmp_path), per_label=20).verdict
    assert "1 files occur both as real and as fake: one of the labels is wrong." in verdict
    assert any("WebP" in sentence for sentence in verdict)


def test_sizes_that_a_crop_hides_and_exif_are_mentioned(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "a camera"
    pair_of_folders(tmp_path, 30, {"exif": exif}, {}, quality=90)
    for index in range(30):
        write_image(tmp_path / "fake" / f"{index}.jpg", picture(index, 66)[:, :64], quality=90)
    report = audit(prepared(tmp_path), per_label=20)
    assert any("Square crops at one scale hide it" in sentence for sentence in report.verdict)
    assert any("EXIF" in sentence for sentence in report.verdict)
    assert report.views["as trained"].worst is None


def test_an_audit_of_hardly_any_samples_is_refused(jpeg_against_png, cli):
    with pytest.raises(ValueError, match="samples=5: the audit needs at least 10"):
        cli("audit", "--data=RealFakeDataModule", f"--data.root={jpeg_against_png}", "--samples=5")


def test_an_audit_lists_damaged_files_in_its_run(jpeg_against_png, cli, tmp_path):
    pair_of_folders(tmp_path / "d", 30, {}, {}, quality=90)
    (tmp_path / "d/real/broken.png").write_bytes(b"none")
    Image.fromarray(np.zeros((40, 40), np.float32)).save(tmp_path / "d/real/float.tiff")
    cli("audit", "--data=RealFakeDataModule", f"--data.root={tmp_path / 'd'}", "--data.image_size=32", "--samples=10")
    (report,) = Path("runs").rglob("corrupt_files.csv")
    assert set(pd.read_csv(report)["path"]) == {"real/broken.png", "real/float.tiff"}


def test_figures_survive_json(jpeg_against_png):
    leakage, _, _ = measure(prepared(jpeg_against_png).training_view(), per_label=20)
    assert Leakage.from_dict(json.loads(json.dumps(leakage.as_dict()))) == leakage


def test_audit_command_writes_page_figures_and_a_config_that_trains(jpeg_against_png, cli, capsys, detector_arguments):
    data = ["--data=RealFakeDataModule", f"--data.root={jpeg_against_png}", "--data.image_size=32"]
    cli("audit", *data, "--experiment=a", "--samples=30")
    printed = capsys.readouterr().out
    assert re.search(r"codec +1\.00 .* 1\.00 .* 0\.50", printed)
    run = next(Path("runs/a").iterdir())
    assert {path.name for path in run.iterdir()} == {"audit.html", "audit.json", "audit_fix.yaml", "config.yaml"}
    page = (run / "audit.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r"(src|href)=.https?:", page)  # self-contained
    assert json.loads((run / "audit.json").read_text())["views"]["files"]["leaks"]["codec"]["auroc"] == 1
    fix = yaml.safe_load((run / "audit_fix.yaml").read_text())
    assert fix["data"]["init_args"]["selection"] == "quality_matched"
    assert set(fix["data"]["init_args"]) == {  # what it was measured with, whatever the other configs say
        *("selection", "quality", "size_window", "fake_quality", "common_size", "reencode_reals")
    }
    arguments = [a for a in detector_arguments if not a.startswith("--data.root")] + data[1:]
    arguments += ["--trainer.max_epochs=1", "--data.audit=refuse"]
    with pytest.raises(ManifestError, match="can be told without looking at the pictures: format, codec"):
        cli("fit", *arguments)
    result = cli("fit", *arguments, "--data.fake_quality=50", "-c", str(run / "audit_fix.yaml"))
    assert result.datamodule.fake_quality == "matched"


def test_fit_warns_of_a_shortcut_once_it_is_measured(jpeg_against_png, cli, detector_arguments):
    arguments = [*detector_arguments, f"--data.root={jpeg_against_png}", "--trainer.max_epochs=1"]
    with pytest.warns(UserWarning, match=r"metadata AUROC 1\.00"):
        cli("fit", *arguments)
    assert len(list(Path("cache/truelight").glob("audit-*.json"))) == 1


def test_audit_of_a_training_config_needs_no_model(jpeg_against_png, cli, tmp_path):
    (tmp_path / "fit.yaml").write_text(
        "model: {class_path: ImageDetector, init_args: {backbone: resnet18}}\n"
        f"data: {{class_path: RealFakeDataModule, init_args: {{root: {jpeg_against_png}, image_size: 32}}}}\n"
        "trainer: {max_epochs: 3, callbacks: [{class_path: LearningRateMonitor}]}\n"
    )
    assert cli("audit", "-c", "fit.yaml", "--samples=20").model is None


def test_audit_refuses_what_has_no_labels(cli):
    with pytest.raises((TypeError, ValueError), match="real and fake"):
        cli("audit", "--data=ImageDataModule")
