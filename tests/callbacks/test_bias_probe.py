"""Probes of detectors whose curves are known in closed form, and whole runs through the command line."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAccuracy

from callbacks import BiasProbe
from functional.jpeg import quantization_tables

NOTHING = {"jpeg": (), "resize": (), "blur": (), "noise": (), "webp": (), "crop_phase": (), "native_size": 0}


class Measuring(LightningModule):
    """A detector that calls fake what a function of the images, ``(B, 3, H, W)`` to ``(B,)``, is positive for."""

    def __init__(self, measure):
        super().__init__()
        self.measure = measure
        self.accuracy = BinaryAccuracy()

    def forward(self, x):
        value = self.measure(x)
        return torch.stack([torch.zeros_like(value), value], dim=1)

    def score(self, logits):
        return logits[:, 1] - logits[:, 0]

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.accuracy.update((self.score(self(batch["image"])) > 0).long(), batch["label"])


def samples(images, labels, **more):
    """Items of a data set, one path each; tuples of the keywords go to the items in turn."""
    rows = zip(images, labels, strict=True)
    return [
        {
            "image": image,
            "label": int(label),
            "path": f"{index}.png",
            **{key: value[index] for key, value in more.items()},
        }
        for index, (image, label) in enumerate(rows)
    ]


def probe(tmp_path, module, data, batch_size=4, trainer=None, **arguments):
    """Run a test with a probe of nothing but what is asked for; its table, indexed, and the trainer."""
    loaders = data if isinstance(data, dict) else {"generator": data}
    callback = BiasProbe(**{**NOTHING, "resamples": 20, **arguments})
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, **quiet, **(trainer or {})}
    run = Trainer(callbacks=[callback], **options)
    run.test(
        module,
        {name: DataLoader(dataset=items, batch_size=batch_size) for name, items in loaders.items()},
        verbose=False,
    )
    file = tmp_path / "bias_probe.csv"
    if not file.is_file():
        return None, run
    table = pd.read_csv(file, dtype={"level": str}, keep_default_na=False, na_values={"value": [""]})
    return table.set_index(["degradation", "loader", "metric", "level"]).sort_index(), run


def curve(table, degradation, metric, loader="pooled"):
    """Levels and values of a metric."""
    return table.loc[(degradation, loader, metric)]["value"].astype(float).to_dict()


# --- curves in closed form --------------------------------------------------------------------------------------------


def test_jpeg_curve_follows_from_the_quantisation_table(tmp_path):
    """Fakes carry one DCT wave; it survives a quality if its coefficient is more than half a step."""
    wave = torch.cos((2 * torch.arange(64) + 1) * 7 * math.pi / 16)
    amplitudes = [1.5, 3.0, 4.5, 6.0, 8.0, 12.0]

    def amplitude(x):
        return (x[:, 0] * 255 * wave).mean(dim=(1, 2)) * 2 - 0.75

    fakes = [((128 + a * wave).round() / 255).expand(3, 48, 64) for a in amplitudes]
    data = samples([*fakes, *[torch.full((3, 48, 64), 0.5)] * 2], [1] * 6 + [0] * 2)
    qualities = (40, 50, 60, 75, 90, 96)
    table, run = probe(tmp_path, Measuring(amplitude), data, jpeg=qualities)
    coefficients = 8 / math.sqrt(2) * np.array(amplitudes)  # of the orthonormal 8 x 8 DCT
    steps = {quality: quantization_tables(quality)[0, 7] for quality in qualities}
    margin = min(abs(c - step / 2) for c in coefficients for step in steps.values())
    assert margin > 0.5  # further than the rounding of pixels moves a coefficient
    expected = {str(quality): np.mean(coefficients > step / 2) for quality, step in steps.items()}
    assert curve(table, "jpeg", "tpr") == pytest.approx(expected, abs=1e-9)
    assert len(set(expected.values())) > 3
    assert set(curve(table, "jpeg", "tnr").values()) == {1.0}
    assert run.callback_metrics["probe/jpeg/worst_drop"] == pytest.approx(1 - expected["40"], abs=1e-6)


def test_blur_curve_follows_from_the_kernel(tmp_path):
    """A checkerboard is an eigenvector of the blur, its reflected borders included."""
    board = ((torch.arange(32)[:, None] + torch.arange(40)) % 2) * 2 - 1

    def contrast(x):
        return (x[:, 0] * 255 * board).mean(dim=(1, 2)) - 10

    amplitudes = np.array([12, 30, 60, 100])
    data = samples([((128 + a * board) / 255).expand(3, 32, 40) for a in amplitudes], [1] * 4)
    sigmas = (0.4, 0.6, 0.8)
    table, _ = probe(tmp_path, Measuring(contrast), data, blur=sigmas)
    expected = {}
    for sigma in sigmas:
        steps = np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
        weights = np.exp(-0.5 * (steps / sigma) ** 2)
        gain = ((weights / weights.sum() * (-1.0) ** steps).sum()) ** 2
        assert np.abs(amplitudes * gain - 10).min() > 0.5
        expected[f"{sigma:g}"] = np.mean(amplitudes * gain > 10)
    assert curve(table, "blur", "tpr") == pytest.approx(expected)
    assert len(set(expected.values())) == 3
    assert np.isnan(curve(table, "clean", "tnr")[""])  # there are no reals


def test_noise_turns_flat_reals_into_grainy_fakes(tmp_path):
    def grain(x):
        return (x * 255).std(dim=(1, 2, 3)) - 5

    data = samples([torch.full((3, 32, 32), 0.5)] * 6, [0] * 6)
    table, _ = probe(tmp_path, Measuring(grain), data, noise=(1.0, 4.0, 6.0, 9.0))
    assert curve(table, "noise", "tnr") == {"1": 1, "4": 1, "6": 0, "9": 0}


def test_crop_phase_finds_a_detector_of_the_grid(tmp_path):
    """Only windows that start on the file's grid have their block borders at multiples of eight."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(6, 3, 9, 9, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    offsets = torch.tensor([[0, 0], [3, 5], [8, 7], [1, 2], [16, 4], [-1, -1]])
    starts = offsets.clamp_min(0)
    images = [image[:, top : top + 40, left : left + 40] for image, (top, left) in zip(blocks, starts, strict=True)]

    def on_grid(x):
        edges = x.diff(dim=3).abs().mean(dim=(1, 2))
        is_border = torch.arange(1, 40) % 8 == 0
        return edges[:, is_border].mean(1) - 3 * edges[:, ~is_border].mean(1)

    phases = tuple(range(8))
    table, _ = probe(tmp_path, Measuring(on_grid), samples(images, [1] * 6, crop_offset=offsets), crop_phase=phases)
    assert curve(table, "crop_phase", "tpr") == {"0": 1.0} | {str(phase): 0.0 for phase in phases[1:]}
    assert curve(table, "clean", "tpr")[""] == pytest.approx(2 / 6)


# --- what the probe may not change, and what it compares --------------------------------------------------------------


def noisy_pairs(count=12, seed=0):
    """Reals and fakes with overlapping brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    levels = torch.randint(0, 200, (count, 1, 1, 1), generator=generator) + 20 * labels.view(-1, 1, 1, 1)
    images = (levels + torch.randint(0, 30, (count, 3, 32, 32), generator=generator)).clamp(0, 255) / 255
    return samples(images, labels)


def brightness(x):
    return x.mean(dim=(1, 2, 3)) - 0.5


def test_identity_levels_repeat_the_plain_test_exactly(tmp_path):
    module = Measuring(brightness)
    seen = []
    module.measure = lambda x: seen.append(x) or brightness(x)
    table, _ = probe(tmp_path, module, noisy_pairs(), resize=(1.0,), blur=(0.0,), noise=(0.0,), crop_phase=(0,))
    accuracy = float(module.accuracy.compute())
    for name, level in (("clean", ""), ("resize", "1"), ("blur", "0"), ("noise", "0"), ("crop_phase", "0")):
        assert curve(table, name, "balanced_accuracy")[level] == pytest.approx(accuracy, abs=1e-7)
        assert curve(table, name, "auroc") == {level: curve(table, "clean", "auroc")[""]}
    assert 0 < accuracy < 1
    assert len(seen) == 3 * 3  # test step, clean images, crop phase: what changes nothing is not scored again


@pytest.mark.parametrize("batch_size", [1, 5])
def test_seeded_noise_does_not_depend_on_batches_or_order(tmp_path, batch_size):
    def corner(x):
        return x[:, 0, 0, 0] - 0.5

    data = noisy_pairs(20)
    once, _ = probe(tmp_path / "a", Measuring(corner), data, batch_size=20, noise=(8.0, 32.0))
    again, _ = probe(tmp_path / "b", Measuring(corner), data[::-1], batch_size=batch_size, noise=(8.0, 32.0))
    pd.testing.assert_frame_equal(once, again)
    assert curve(once, "noise", "auroc")["32"] != curve(once, "clean", "auroc")[""]


def test_loaders_are_kept_apart_and_pooled_without_counting_files_twice(tmp_path, caplog):
    caplog.set_level("INFO")
    reals, fakes = samples([torch.full((3, 8, 8), 0.2)] * 3, [0] * 3), {}
    for name, level in (("dark", 0.4), ("bright", 0.9)):
        fakes[name] = [
            {**s, "path": f"{name}/{s['path']}"} for s in samples([torch.full((3, 8, 8), level)] * 2, [1] * 2)
        ]
    loaders = {name: reals + items for name, items in fakes.items()}
    table, run = probe(tmp_path, Measuring(brightness), {**loaders, "dark@jpeg96": loaders["dark"]}, jpeg=(90,))
    assert set(table.index.get_level_values("loader")) == {"dark", "bright", "pooled"}
    for loader, tpr in (("dark", 0.0), ("bright", 1.0), ("pooled", 0.5)):
        assert curve(table, "jpeg", "tpr", loader) == {"90": tpr}
    assert table.loc[("clean", "pooled", "tnr")]["n"].tolist() == [3]
    assert table.loc[("clean", "pooled", "tpr")]["n"].tolist() == [4]
    assert table.loc[("clean", "dark", "auroc")]["n"].tolist() == [5]
    assert "each batch of dark, bright is also scored as it is and under 1 conditions (jpeg 1)" in caplog.text
    assert run.callback_metrics["probe/jpeg/worst_drop"] == 0
    chosen, _ = probe(tmp_path, Measuring(brightness), {**loaders, "dark@x": reals}, loaders=["dark@x"])
    assert set(chosen.index.get_level_values("loader")) == {"dark@x", "pooled"}
    with pytest.raises(ValueError, match=r"BiasProbe.loaders=None: name one or more of the test loaders dark@x"):
        probe(tmp_path, Measuring(brightness), {"dark@x": reals})
    with pytest.raises(ValueError, match=r"'gone'\]: name one or more of the test loaders dark, bright"):
        probe(tmp_path, Measuring(brightness), loaders, loaders=["dark", "gone"])


def test_model_mode_gradients_and_random_numbers_stay_as_they_were(tmp_path):
    class Moody(Measuring):
        """Draws random numbers in each step and each pass, and has what batch normalisation would change."""

        def __init__(self):
            super().__init__(brightness)
            self.norm = torch.nn.BatchNorm2d(3)
            self.drawn, self.modes = [], set()

        def on_test_start(self):
            self.norm.weight.grad = torch.ones(3)  # Lightning clears those from before

        def forward(self, x):
            return super().forward(self.norm(x) + 0 * torch.rand(()))

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            super().test_step(batch, batch_idx)
            self.drawn.append(torch.rand(()).item())
            self.modes |= {module.training for module in self.modules()}

    draws = []
    for jpeg in ((), (50, 60)):
        module = Moody()
        before = {key: value.clone() for key, value in module.state_dict().items()}
        torch.manual_seed(3)
        probe(tmp_path, module, noisy_pairs(), jpeg=jpeg)
        draws.append(module.drawn)
        assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())
        assert torch.equal(module.norm.weight.grad, torch.ones(3))
        assert not any(module.modes)
    plain = Moody()
    torch.manual_seed(3)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet).test(
        plain, DataLoader(dataset=noisy_pairs(), batch_size=4), verbose=False
    )
    assert draws == [plain.drawn, plain.drawn]


def test_scores_are_taken_in_the_precision_of_the_test_step(tmp_path):
    class Layered(Measuring):
        def __init__(self):
            super().__init__(None)
            self.layer = torch.nn.Linear(3, 1)
            self.types = set()

        def forward(self, x):
            value = self.layer(x.mean(dim=(2, 3)))[:, 0]
            self.types.add(value.dtype)
            return torch.stack([torch.zeros_like(value), value], dim=1)

    module = Layered()
    probe(tmp_path, module, noisy_pairs(), jpeg=(90,), trainer={"precision": "bf16-mixed"})
    assert module.types == {torch.bfloat16}


def test_stored_threshold_is_used_on_request(tmp_path):
    module = Measuring(brightness)
    module.calibration = torch.nn.Module()
    module.calibration.register_buffer("threshold", torch.tensor(0.3))
    data = samples([torch.full((3, 8, 8), level) for level in (0.7, 0.9)], [0, 1])
    plain, _ = probe(tmp_path / "plain", module, data)
    stored, _ = probe(tmp_path / "stored", module, data, use_stored_threshold=True)
    assert curve(plain, "clean", "tnr") == {"": 0.0}
    assert curve(stored, "clean", "tnr") == {"": 1.0}
    with pytest.raises(TypeError, match=r"needs Measuring.calibration.threshold, which it lacks"):
        probe(tmp_path, Measuring(brightness), data, use_stored_threshold=True)


def test_what_a_module_or_batch_lacks_is_named(tmp_path):
    class Scoreless(LightningModule):
        def forward(self, x):
            return x

        def test_step(self, batch, batch_idx):
            pass

    class Forwardless(Scoreless):
        forward = LightningModule.forward

    data = noisy_pairs(2)
    with pytest.raises(TypeError, match=r"BiasProbe needs Scoreless.score\(logits\).*which it lacks"):
        probe(tmp_path, Scoreless(), data)
    with pytest.raises(TypeError, match=r"BiasProbe needs Forwardless.forward\(x\), which it lacks"):
        probe(tmp_path, Forwardless(), data)
    several = Measuring(brightness)
    several.score = lambda logits: logits.repeat(1, 2)[:, :3]
    several.test_step = lambda batch, batch_idx: None
    message = r"Measuring.score\(logits\) to return one number per image, shape \(2,\), got \(2, 3\)"
    with pytest.raises(TypeError, match=message):
        probe(tmp_path, several, data)
    with pytest.raises(TypeError, match="dictionaries with `path`"):
        probe(tmp_path, Measuring(brightness), [{k: v for k, v in item.items() if k != "path"} for item in data])
    with pytest.raises(ValueError, match=r"BiasProbe.resamples=0"):
        BiasProbe(resamples=0)


def test_ranks_are_joined_and_padded_images_dropped(tmp_path, monkeypatch):
    """Two ranks, the second of which has repeated an image of the first, as samplers do that pad their shards."""
    whole = BiasProbe(**{**NOTHING, "resamples": 20})
    scores, labels = torch.tensor([[1.0], [-1.0], [2.0], [-3.0]]), torch.tensor([1, 0, 0, 1])
    paths, sides = ["a", "b", "c", "d"], torch.full((4,), 64)

    def part(indices):
        return [("g", [paths[i] for i in indices], labels[indices], sides[indices], scores[indices])]

    logged = {}
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    strategy = SimpleNamespace(broadcast=lambda value: value)
    whole._parts = part([0, 1, 2, 3])
    whole.on_test_epoch_end(SimpleNamespace(world_size=1, is_global_zero=True, strategy=strategy), module)
    others = BiasProbe(**NOTHING)
    others._parts = part([1, 3, 0])

    def gather(into, mine):
        from callbacks.bias_probe import _on_cpu

        into[:] = [mine, _on_cpu(others._parts, 1), _on_cpu([], 1)]  # a third rank had no batch

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    joined = BiasProbe(**{**NOTHING, "resamples": 20})
    joined._parts = part([0, 2])
    joined.on_test_epoch_end(SimpleNamespace(world_size=3, is_global_zero=True, strategy=strategy), module)
    pd.testing.assert_frame_equal(joined._table, whole._table)
    assert joined._table["n"].max() == 4


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_test_run_leaves_table_curves_and_summary(cli, detector_arguments, caplog):
    caplog.set_level("INFO")
    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=a")
    fragment = ["-c", str(ROOT / "configs/callbacks/bias_probe.yaml"), "--trainer.callbacks.resamples=50"]
    result = cli("test", *detector_arguments, "--experiment=a", *fragment)
    (run,) = Path("runs/a").glob("*-test")
    table = pd.read_csv(run / "bias_probe.csv", dtype={"level": str}, keep_default_na=False)
    assert list(table) == ["degradation", "level", "loader", "metric", "value", "low", "high", "n"]
    levels = table[(table["loader"] == "fake") & (table["metric"] == "tpr")].groupby("degradation")["level"].size()
    expected = {"clean": 1, "jpeg": 11, "resize": 7, "blur": 5, "noise": 5, "webp": 5, "crop_phase": 8}
    assert levels.to_dict() == expected | {"file_format": 1}
    clean = table[(table["degradation"] == "clean") & (table["loader"] == "fake")].set_index("metric")["value"]
    for metric in ("tpr", "tnr", "balanced_accuracy", "auroc"):
        assert float(clean[metric]) == pytest.approx(float(result.trainer.callback_metrics[f"test/{metric}"]), abs=1e-6)
    assert (run / "bias_probe.png").stat().st_size > 20000
    assert "under 41 conditions (jpeg 11, resize 7, blur 5, noise 5, crop_phase 8, webp 5)" in caplog.text
    for name in expected.keys() - {"clean"}:
        assert f"\n  {name}: loses " in caplog.text
        assert f"probe/{name}/worst_drop" in result.trainer.callback_metrics
    assert "lossless files: TPR " in caplog.text


def test_fast_dev_run_writes_nothing(tmp_path):
    table, run = probe(tmp_path, Measuring(brightness), noisy_pairs(), jpeg=(90,), trainer={"fast_dev_run": True})
    assert table is None
    assert not list(tmp_path.glob("bias_probe*"))
    assert "probe/jpeg/worst_drop" in run.callback_metrics


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}, {str(ROOT / 'tests/callbacks')!r}]\n"
        "from pathlib import Path\n"
        "import test_bias_probe as t\n"
        "t.probe(Path('two').absolute(), t.Measuring(t.brightness), t.noisy_pairs(13), jpeg=(30,), noise=(32.0,),\n"
        "        trainer={'devices': 2, 'strategy': 'ddp'})\n"
    )
    done = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    probe(tmp_path / "one", Measuring(brightness), noisy_pairs(13), jpeg=(30,), noise=(32.0,))
    one, two = (pd.read_csv(tmp_path / folder / "bias_probe.csv") for folder in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
    assert one["n"].max() == 13
