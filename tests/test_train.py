"""The command line: composition, links, run directories, checkpoints, resumption, messages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, noise, write_image
from house import command_line
from processes import run_two

from datamodules.decoding import decode_image
from train import console, main, plain_refusals


def only_run(experiment: str, suffix: str = "") -> Path:
    """The one run directory of an experiment."""
    runs = [path for path in Path("runs", experiment).iterdir() if path.name.endswith(suffix)]
    assert len(runs) == 1, runs
    return runs[0]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a checkpoint, loaded without code."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_equal_weights(left: Path, right: Path) -> None:
    """Every tensor is equal bit for bit."""
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different


def test_fit_leaves_config_logs_and_checkpoints(cli, detector_arguments):
    cli("fit", *detector_arguments, "--trainer.max_epochs=2", "--experiment=first")
    run = only_run("first")
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "csv/metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    metrics = pd.read_csv(run / "csv/metrics.csv")
    assert metrics["val/auroc"].notna().sum() == 2
    assert metrics["train/loss_epoch"].notna().sum() == 2
    assert metrics["train/loss_step"].notna().sum() == 14  # 56 training images, batches of 8, 2 epochs


def test_two_runs_never_share_a_directory(cli, detector_arguments):
    for _ in range(2):
        cli(
            "fit",
            *detector_arguments,
            "--trainer.max_epochs=1",
            "--experiment=twice",
            "--trainer.limit_train_batches=1",
        )
    assert len(list(Path("runs/twice").iterdir())) == 2


def test_saved_config_repeats_the_run(cli, detector_arguments):
    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=a", "--data.fake_quality=null")
    first = only_run("a")
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["data"]["init_args"]["fake_quality"] is None  # an explicit null is not lost
    main(["fit", "-c", str(first / "config.yaml"), "--experiment=b"])
    assert_equal_weights(first / "checkpoints/last.ckpt", only_run("b") / "checkpoints/last.ckpt")


def test_configs_compose_and_interpolate(detector_arguments):
    Path("a.yaml").write_text("data: {init_args: {batch_size: 3}}\ntrainer: {max_epochs: 7}\n")
    Path("b.yaml").write_text(
        "model:\n  init_args:\n    lr_scheduler:\n      class_path: lightning_modules.WarmupCosine\n"
        "      init_args: {total_epochs: '${trainer.max_epochs}'}\n"
    )
    arguments = [argument for argument in detector_arguments if "batch_size" not in argument]
    command = ["fit", *arguments, "-c", "a.yaml", "-c", "b.yaml", "--trainer.max_epochs=2", "--trainer.fast_dev_run=1"]
    result = main([*command, "--trainer.accelerator=cpu"])
    assert result.config.fit.data.init_args.batch_size == 3
    assert result.config.fit.model.init_args.lr_scheduler.init_args.total_epochs == 2  # the later override counts


def test_links_pass_image_size_and_class_count(cli, detector_arguments):
    arguments = [a for a in detector_arguments if not a.startswith("--model=")]
    result = cli("fit", "--model=ImageClassifier", *arguments, "--trainer.fast_dev_run=1")
    assert result.model.num_classes == 2
    assert result.config.fit.model.init_args.image_size == 32


def test_command_line_beats_checkpoint(cli, detector_arguments):
    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=a")
    checkpoint = only_run("a") / "checkpoints/last.ckpt"
    result = cli("test", *detector_arguments, "--model.error_rate=0.25", f"--ckpt_path={checkpoint}", "--experiment=a")
    assert result.model.calibration.error_rate == 0.25


def test_test_takes_the_best_checkpoint_or_refuses(cli, detector_arguments, capsys):
    with pytest.raises(SystemExit, match=r"no runs/none/\*/checkpoints/best.ckpt to test"):
        cli("test", *detector_arguments, "--experiment=none")
    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=a")
    result = cli("test", *detector_arguments, "--experiment=a")
    assert result.config.test.ckpt_path.endswith("checkpoints/best.ckpt")
    assert "test/auroc" in result.trainer.callback_metrics
    with pytest.raises(SystemExit, match="neither a file nor one of last, best"):
        cli("test", *detector_arguments, "--ckpt_path=gone.ckpt")
    Path(result.config.test.ckpt_path).unlink()
    with pytest.raises(SystemExit, match=r"no best checkpoint, because no epoch was validated yet.* --ckpt_path last"):
        cli("test", *detector_arguments, "--experiment=a")


def test_a_checkpoint_cannot_run_code(cli, detector_arguments, tmp_path):
    class Malice:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Malice()}, tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        cli("test", *detector_arguments, f"--ckpt_path={tmp_path / 'bad.ckpt'}")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("checkpoint", ["own", "after_validation"])
def test_resumed_run_equals_uninterrupted_run(cli, detector_arguments, workers, checkpoint):
    recipe = [a for a in detector_arguments if "num_workers" not in a] + [f"--data.num_workers={workers}"]
    if checkpoint == "after_validation":
        recipe += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename=last"]
    recipe = [*recipe, "--model.optimizer=SGD", "--model.optimizer.lr=0.05", "--data.augmentation.flip=0.5"]
    recipe += ["--model.mixup_alpha=0.4", "--trainer.gradient_clip_val=1.0"]
    cli("fit", *recipe, "--trainer.max_epochs=4", "--experiment=whole")
    cli("fit", *recipe, "--trainer.max_epochs=2", "--experiment=parts")
    cli("fit", *recipe, "--trainer.max_epochs=4", "--experiment=parts", "--ckpt_path=last")
    run = only_run("parts")  # the resumed run goes on in the same directory
    written = [next(only_run(name).rglob("last.ckpt")) for name in ("whole", "parts")]
    assert_equal_weights(*written)
    assert {path.name for path in run.glob("*.yaml")} == {"config.yaml", "config-2.yaml"}
    assert len(pd.read_csv(run / "csv/metrics.csv")) > 0  # the first part's log is still there
    assert (run / "csv-2/metrics.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_run_resumes_to_the_same_weights(detector_arguments, workers):
    recipe = [a for a in detector_arguments if "num_workers" not in a] + [f"--data.num_workers={workers}"]
    command = [sys.executable, str(ROOT / "train.py"), "fit", *recipe, "--trainer.accelerator=cpu"]
    command += ["--trainer.max_epochs=5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--experiment=whole"], check=True, env=environment, capture_output=True)
    # The killed run is slowed down, so that the signal lands inside an epoch.
    Path("slow.py").write_text(
        "import time\nfrom lightning.pytorch import Callback\nclass Slow(Callback):\n"
        "    def on_train_batch_end(self, *args): time.sleep(0.15)\n"
    )
    killed = subprocess.Popen(
        [*command, "--experiment=killed", "--trainer.callbacks+=slow.Slow"],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), "."])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(Path("runs/killed").glob("*/checkpoints/last.ckpt")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    last = only_run("killed") / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] < 4
    subprocess.run(
        [*command, "--experiment=killed", "--ckpt_path=last"], check=True, env=environment, capture_output=True
    )
    assert_equal_weights(only_run("whole") / "checkpoints/last.ckpt", last)


@pytest.mark.slow
def test_two_machines_are_two_processes_of_one(detector_arguments, tmp_path):
    """The multi-node overlay under the environment of ``torchrun``, against the overlay for one machine."""
    recipe = ["fit", *detector_arguments, "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    for machines, overlay, devices in ((1, "ddp", 2), (2, "multi_node", 1)):
        overlaid = ["-c", str(ROOT / f"configs/trainer/{overlay}.yaml"), *cpu, f"--trainer.devices={devices}"]
        arguments = [*recipe, *overlaid, f"--experiment={overlay}"]
        assert run_two(command_line, tmp_path, arguments, machines) == [0, 0]
    assert_equal_weights(*(only_run(name) / "checkpoints/last.ckpt" for name in ("ddp", "multi_node")))


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(detector_arguments):
    """Gradients average over ranks and metrics gather, so the numbers agree up to the order of summation."""
    # A network without batch statistics: those are per process by design.
    recipe = [a for a in detector_arguments if not a.startswith(("--model.backbone", "--data.batch_size"))]
    recipe += ["--model.backbone=test_vit", "--data.augmentation.flip=0.0", "--data.crop=center"]
    recipe += ["--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--data.test_fraction=0.275"]
    command = [sys.executable, str(ROOT / "train.py"), "fit", *recipe, "--trainer.max_epochs=2"]
    command += ["-c", str(ROOT / "configs/trainer/ddp.yaml"), "--trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for experiment, devices, batch in (("one", 1, 8), ("two", 2, 4)):
        arguments = [f"--experiment={experiment}", f"--trainer.devices={devices}", f"--data.batch_size={batch}"]
        done = subprocess.run([*command, *arguments], check=False, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (only_run(name) for name in ("one", "two"))
    metrics = [pd.read_csv(run / "csv/metrics.csv").groupby("epoch").last() for run in (one, two)]
    columns = [column for column in metrics[0] if column.startswith("val/")]
    assert len(columns) >= 9
    pd.testing.assert_frame_equal(metrics[0][columns], metrics[1][columns], rtol=1e-4, atol=1e-5)
    a, b = weights(one / "checkpoints/last.ckpt"), weights(two / "checkpoints/last.ckpt")
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_wandb_offline_run_holds_config_metrics_and_images(cli, detector_arguments):
    arguments = [*detector_arguments, "--experiment=tracked", "-c", str(ROOT / "configs/logger/wandb.yaml")]
    cli("fit", *arguments, "--trainer.max_epochs=1")
    import wandb

    wandb.finish()
    cli("test", *arguments, "--trainer.callbacks+=CrossGeneratorMatrix", "--trainer.callbacks.trained_on=fake")
    wandb.finish()
    config, history, images = {}, set(), []
    for file in Path("runs/tracked").glob("*/wandb/offline-run-*/run-*.wandb"):
        for record in wandb_records(file):
            for item in (*record.config.update, *record.run.config.update):
                config[".".join(item.nested_key) or item.key] = item.value_json
            history |= {".".join(item.nested_key) or item.key for item in record.history.item}
        images += list(file.parent.glob("files/media/images/*.png"))
    assert "cifar_resnet8" in config["model"]
    assert any("val/auroc" in key for key in history), history
    assert images


def wandb_records(file: Path) -> list:
    """Records of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    data, position, pending, records = file.read_bytes(), 7, b"", []  # 7 bytes of file header
    while position + 7 <= len(data):
        # LevelDB's log format: blocks of 32 KiB of chunks with checksum, length and kind (1 full, 4 last, others go on)
        if position % 32768 > 32768 - 7:
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(pending))
            pending = b""
    return records


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=ImageDetecter"], "'ImageDetecter' is not a known class. Did you mean 'ImageDetector'?"),
        (["--data=RealFake"], "'RealFake' is not a known class. Did you mean 'RealFakeDataModule'?"),
        (["--model.bakbone=x"], "ImageDetector has no option 'bakbone'. Did you mean 'backbone'?"),
        (["--model.optimizer=SGDD"], "optimizer: 'SGDD' is not a known class. Did you mean 'SGD'?"),
        (["--data.image_size=big"], "data.image_size: expected int, got 'big'"),
        (["--data.small_images=paddd"], "data.small_images: expected one of 'refuse', 'pad', 'drop', got 'paddd'"),
        (["--model.optimizer=AdamW", "--model.optimizer.lrr=1"], "AdamW has no option 'lrr'. Did you mean 'lr'?"),
        (["--trainer.callbacks+=CrossMatrix"], "trainer.callbacks: 'CrossMatrix' is not a known class"),
    ],
)
def test_mistakes_on_the_command_line_name_key_and_mend(detector_arguments, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["fit", *detector_arguments, *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["model", "data"])
def test_a_missing_class_is_asked_for(detector_arguments, capsys, missing):
    with pytest.raises(SystemExit):
        main(["fit", *(a for a in detector_arguments if not a.startswith(f"--{missing}"))])
    assert f"{missing} is missing: give --{missing} CLASS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--data.root=nowhere", "error: data.root=nowhere does not exist"),
        ("--data.selection=constraint", "error: data.selection='constraint' is none of raw, jpeg96"),
        ("--model.backbone=resnet1818", "error: model.backbone='resnet1818' is no timm model"),
        ("--data.fake_quality=0", "error: data.fake_quality=0: a JPEG quality is a number from 1 to 100"),
        ("--ckpt_path=photo.ckpt", "error: ckpt_path: the file is no checkpoint of plain tensors"),
    ],
)
def test_refusals_end_without_traceback_and_without_a_run_directory(detector_arguments, monkeypatch, argument, message):
    Path("photo.ckpt").write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", *detector_arguments, argument, "--trainer.accelerator=cpu"])
    with pytest.raises(SystemExit, match=re.escape(message)):
        console()
    if not argument.startswith("--ckpt_path"):
        assert not list(Path("runs").glob("*/*"))


class _Damaged(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return decode_image("cut.jpg")


def test_a_damaged_image_in_a_loading_process_ends_with_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cut.jpg").write_bytes(b"\xff\xd8\xff")
    loader = torch.utils.data.DataLoader(_Damaged(), num_workers=1)
    with pytest.raises(SystemExit, match=r"^error: cut\.jpg: cannot be decoded .*left out$"), plain_refusals():
        next(iter(loader))


def test_best_checkpoint_is_the_best_epoch_also_on_easy_data(cli, detector_arguments):
    """An AUROC of 1 ties from the first epoch on; the loss goes on falling."""
    arguments = [*detector_arguments, "--model.optimizer=AdamW", "--model.optimizer.lr=0.01"]
    cli("fit", *arguments, "--trainer.max_epochs=8", "--experiment=easy")
    run = only_run("easy")
    losses = pd.read_csv(run / "csv/metrics.csv").dropna(subset=["val/loss"]).set_index("epoch")["val/loss"]
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.idxmin() > 0
    state = next(
        v for k, v in torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"].items() if "val" in k
    )
    assert float(state["best_model_score"]) == pytest.approx(losses.min())  # last.ckpt knows it, for a resumed run


def test_a_refused_look_at_the_loss_leaves_no_run_directory(cli, detector_arguments):
    run = cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=seen")
    with pytest.raises(ValueError, match="points=1 must be at least 2"):
        cli("landscape", *detector_arguments, "--experiment=seen", "--points=1")
    assert [path.name for path in Path("runs/seen").iterdir()] == [Path(run.run_directory).name]


def test_best_is_looked_for_in_the_epochs_that_validate(cli, detector_arguments, recwarn):
    run = cli("fit", *detector_arguments, "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2")
    folder = run.run_directory / "checkpoints"
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] in (1, 3)
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 3
    assert not [warning for warning in recwarn if "could not find the monitored key" in str(warning.message)]


def test_a_checkpoint_of_another_experiment_starts_a_run_of_its_own(cli, detector_arguments):
    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=old")
    old = only_run("old")
    before = sorted(old.rglob("*"))
    cli(
        "fit",
        *detector_arguments,
        "--trainer.max_epochs=2",
        "--experiment=new",
        f"--ckpt_path={old}/checkpoints/last.ckpt",
    )
    assert sorted(old.rglob("*")) == before
    assert (only_run("new") / "checkpoints/last.ckpt").is_file()


def test_image_size_mismatch_names_the_image_and_the_mend(cli, detector_arguments):
    with pytest.raises(
        ValueError, match=r"Image size mismatch: .* smaller than the crop of 64 pixels.*48 x 40.*image_size"
    ):
        cli("fit", *detector_arguments, "--data.image_size=64", "--trainer.fast_dev_run=1")


def test_ranks_and_epochs_draw_different_noise():
    from types import SimpleNamespace

    from callbacks import SeedPerRank

    seeds = SeedPerRank()
    seeds.seed = 3
    drawn = []
    for epoch, batch, rank in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]:
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        seeds.on_train_batch_start(trainer, None, None, batch)
        drawn.append(torch.rand(()).item())
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]


def test_predict_writes_verdicts_and_a_sheet(cli, detector_arguments, tmp_path):
    import numpy as np

    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=a")
    rng = np.random.default_rng(5)
    for index in range(9):
        write_image(tmp_path / "mine" / f"{index}.jpg", noise(rng, 50, 34))
    (tmp_path / "mine" / "broken.png").write_bytes(b"no image")
    cli("predict", *detector_arguments, "--experiment=a", f"--data.predict_root={tmp_path / 'mine'}")
    run = only_run("a", "-predict")
    table = pd.read_csv(run / "predictions.csv")
    assert sorted(table["path"]) == [f"{index}.jpg" for index in range(9)]
    assert table["probability"].between(0, 1).all()
    assert set(table["verdict"]) <= {"real", "fake", "unsure"}
    assert (run / "predictions.png").stat().st_size > 5000
    assert "broken.png" in (run / "corrupt_files.csv").read_text()


@pytest.mark.parametrize("config", sorted((ROOT / "configs/trainer").glob("*.yaml")), ids=lambda path: path.stem)
def test_trainer_fragments_parse(config, detector_arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *detector_arguments, "-c", str(config), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(re.sub(r"(?m)^#.*\n", "", capsys.readouterr().out))
    wanted = yaml.safe_load(config.read_text())["trainer"]
    assert wanted.items() <= printed["trainer"].items()
