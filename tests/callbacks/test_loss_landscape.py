"""Landscapes of runs: true losses, resumed grids, directions, outputs, processes, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from landscape_modules import Classifier, TwoPlayers, loaders, trainer
from matplotlib.figure import Figure

from callbacks import HessianSpectrum, LossLandscape, TrajectoryRecorder
from callbacks.landscape_outputs import landscape_page
from callbacks.landscape_plots import draw_contour, draw_line, draw_surface
from callbacks.landscape_surface import Surface, read_surface, write_surface
from callbacks.landscape_vtk import write_vti, write_vtp


@pytest.fixture
def no_pictures(monkeypatch):
    """Empty pictures, for tests that look at numbers only."""
    for name in ("draw_contour", "draw_surface"):
        monkeypatch.setattr(f"callbacks.landscape_outputs.{name}", lambda _: Figure(figsize=(1, 1)))


def fitted(tmp_path, *callbacks, epochs=3):
    model = Classifier()
    run = trainer(tmp_path, *callbacks, epochs=epochs)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        run.fit(model, **loaders())
    return run, model


def losses_of(model: Classifier, vector: np.ndarray, buffers: np.ndarray | None = None) -> float:
    """True loss of a state on all samples, computed without the code under test."""
    other = Classifier().double().eval()
    other.load_state_dict(model.state_dict())
    torch.nn.utils.vector_to_parameters(torch.as_tensor(np.array(vector)).double(), other.parameters())
    if buffers is not None:
        other.network[1].running_mean.copy_(torch.as_tensor(buffers[:4]))
        other.network[1].running_var.copy_(torch.as_tensor(buffers[4:8]))
    data = loaders()["val_dataloaders"].dataset
    return float(F.cross_entropy(other(data.images.double()), data.labels).detach())


def test_path_and_centre_have_their_true_losses(tmp_path):
    recorder, landscape = TrajectoryRecorder(), LossLandscape("pca", points=7, batch_size=20, precision=64)
    _, model = fitted(tmp_path, recorder, landscape)
    surface = read_surface(tmp_path / "landscape" / "landscape_pca.npz")
    states = recorder.states(model)
    for index in range(4):
        expected = losses_of(model, states.parameters[index], states.buffers[index])
        assert surface.path_losses[index] == pytest.approx(expected, rel=1e-6)
    assert surface.centre_loss == pytest.approx(surface.path_losses[-1], rel=1e-6)
    assert surface.projected_losses[-1] == pytest.approx(surface.centre_loss, rel=1e-6)
    np.testing.assert_allclose(surface.path[-1], 0, atol=1e-6)
    assert surface.x[0] < surface.path[:, 0].min()
    assert surface.x[-1] > surface.path[:, 0].max()
    with np.load(tmp_path / "landscape" / "landscape_pca.npz", allow_pickle=False) as arrays:
        directions = arrays["directions"]
    corner = states.parameters[-1] + surface.x[0] * directions[0] + surface.y[0] * directions[1]
    assert surface.losses[0, 0] == pytest.approx(losses_of(model, corner), rel=1e-4)
    assert surface.axis_labels[0].startswith("component 1 (")
    names = {path.name for path in (tmp_path / "landscape").iterdir()}
    stems = {"landscape_pca.npz", "landscape_pca.png", "landscape_pca.svg", "landscape_pca_3d.png"}
    assert names >= stems | {"landscape_pca.html", "landscape_pca.vti", "landscape_pca_path.vtp"}


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_grid_goes_on_where_it_stopped(tmp_path, monkeypatch):
    run, model = fitted(tmp_path)
    expected = LossLandscape("random", points=5, samples=20).examine(run, model)
    (file,) = (tmp_path / "landscape" / "grids").iterdir()
    file.unlink()
    calls = []
    real = Classifier.objective

    def stop(self, batch):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, batch)

    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    monkeypatch.setattr(Classifier, "objective", stop)
    with pytest.raises(KeyboardInterrupt):
        LossLandscape("random", points=5, samples=20).examine(run, model)
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()).detach(), before)
    assert np.isfinite(np.load(file)).sum() == 7
    surface = LossLandscape("random", points=5, samples=20).examine(run, model)
    assert len(calls) == 8 + 18  # 25 points, 7 of them known
    np.testing.assert_array_equal(surface.losses, expected.losses)
    LossLandscape("random", points=5, samples=20).examine(run, model)
    assert len(calls) == 26
    LossLandscape("random", points=5, samples=21).examine(run, model)  # other data, another grid
    assert len(calls) > 26


@pytest.mark.usefixtures("no_pictures")
def test_directions(tmp_path):
    run, model = fitted(tmp_path)
    size = sum(parameter.numel() for parameter in model.parameters())
    np.save(tmp_path / "mine.npy", np.eye(2, size))
    for directions in ("random", "hessian", str(tmp_path / "mine.npy")):
        surface = LossLandscape(directions, points=4, samples=20).examine(run, model)
        assert surface.losses.shape == (4, 4)
        assert np.isfinite(surface.losses).all()
        assert len(surface.path) == 0
    run, model = fitted(tmp_path / "recorded", TrajectoryRecorder())
    folder = str(tmp_path / "recorded" / "trajectory")
    for arguments, snapshots in (({}, 0), ({"trajectory": folder}, 4)):
        assert len(LossLandscape("random", points=2, samples=20, **arguments).examine(run, model).path) == snapshots
    assert "lambda" in LossLandscape("hessian", points=4, samples=20).examine(run, model).axis_labels[0]
    np.save(tmp_path / "wrong.npy", np.eye(2, 5))
    with pytest.raises(ValueError, match=rf"needed are one or two vectors of {size}"):
        LossLandscape(str(tmp_path / "wrong.npy")).examine(run, model)
    with pytest.raises(ValueError, match=r"nor a file \.npy"):
        LossLandscape(str(tmp_path / "absent.npy")).examine(run, model)


@pytest.mark.usefixtures("no_pictures")
def test_checkpoints_in_one_landscape(tmp_path):
    """Two minima on a line, four in a plane."""
    run, model = fitted(tmp_path)
    files = []
    for index in range(3):
        other = Classifier()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
        torch.save({"state_dict": other.state_dict(), "epoch": 0}, tmp_path / f"minimum{index}.ckpt")
        files.append(str(tmp_path / f"minimum{index}.ckpt"))
    line = LossLandscape("checkpoints", points=7, precision=64, checkpoints=files[:1]).examine(run, model)
    assert line.is_line
    assert line.losses.shape == (1, 7)
    np.testing.assert_allclose(line.path, [[1]])
    own = torch.load(files[0], weights_only=True)["state_dict"]
    vector = torch.cat([own[name].flatten() for name, _ in model.named_parameters()]).numpy()
    statistics = torch.cat([own[f"network.1.running_{kind}"] for kind in ("mean", "var")]).numpy()
    assert line.path_losses[0] == pytest.approx(losses_of(model, vector, statistics), rel=1e-6)
    assert (tmp_path / "landscape" / "landscape_checkpoints.png").is_file()
    plane = LossLandscape("checkpoints", points=4, samples=20, checkpoints=files[:2]).examine(run, model)
    np.testing.assert_allclose(plane.path_distances, 0, atol=1e-5)  # three points span their plane
    assert plane.path_labels == ["minimum0", "minimum1"]
    assert not plane.connected
    best = LossLandscape("checkpoints", points=4, samples=20, checkpoints=files).examine(run, model)
    assert best.path_distances.max() > 1e-3


@pytest.mark.usefixtures("no_pictures")
def test_landscapes_of_players(tmp_path):
    model = TwoPlayers()
    recorders = [TrajectoryRecorder(player="generator"), TrajectoryRecorder(player="critic")]
    views = [LossLandscape("random", points=5, player="critic", precision=64), LossLandscape("pca", player="generator")]
    views[1].points = 3
    trainer(tmp_path, *recorders, *views).fit(model, **loaders())
    surface = read_surface(tmp_path / "landscape" / "landscape_random_critic.npz")
    assert surface.title == "Loss of critic on 48 train samples"
    # The critic's loss is quadratic in its three weights: third differences vanish along every line.
    assert np.abs(np.diff(surface.losses, 3, axis=1)).max() < 1e-9 * surface.losses.max()
    assert (tmp_path / "landscape" / "landscape_pca_generator.npz").is_file()


def test_page_and_pictures_reach_weights_and_biases(tmp_path):
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(save_dir=tmp_path, offline=True)
    model = Classifier()
    landscape = LossLandscape("random", points=3, samples=20)
    trainer(tmp_path, landscape, epochs=1, logger=logger).fit(model, **loaders())
    logger.experiment.finish()
    wandb.teardown()  # its settings would be those of later runs of this process
    kept = {path.suffix for path in tmp_path.glob("wandb/*/files/media/**/*") if path.is_file()}
    assert kept == {".html", ".png"}


@pytest.mark.usefixtures("no_pictures")
def test_landscapes_during_training(tmp_path):
    fitted(tmp_path, TrajectoryRecorder(), LossLandscape("pca", points=3, samples=20, every_n_epochs=1))
    names = {path.stem for path in (tmp_path / "landscape").glob("*.npz")}
    assert names == {"landscape_pca", "landscape_pca_epoch_002"}  # after one epoch there is no plane yet


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_short_paths_and_diverged_models_warn_and_do_not_end_a_training(tmp_path):
    with pytest.warns(UserWarning, match="too short for a plane"):
        fitted(tmp_path, TrajectoryRecorder(), LossLandscape("pca"), epochs=1)
    model = Classifier(lr=float("nan"))
    watch = [LossLandscape(points=3, samples=20), HessianSpectrum(samples=20, density_steps=3)]
    with pytest.warns(UserWarning, match="finite") as warned:
        trainer(tmp_path / "nan", *watch, epochs=1).fit(model, **loaders())
    messages = " ".join(str(warning.message) for warning in warned)
    assert "no loss is finite" in messages
    assert "the loss is not finite at step 4" in messages
    assert len(list((tmp_path / "nan" / "hessian").glob("record_*.npz"))) == 1  # before training


def test_a_path_that_nobody_records_is_said_at_once(tmp_path):
    with pytest.raises(ValueError, match="add the callback TrajectoryRecorder"):
        fitted(tmp_path, LossLandscape("pca"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 1}, "points=1"),
        ({"span": 0.0}, "span=0"),
        ({"directions": "gradient"}, "directions='gradient'"),
        ({"directions": "checkpoints"}, "give checkpoints"),
        ({"checkpoints": ["a.ckpt"]}, "only there"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        LossLandscape(**arguments)


PROCESSES = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from landscape_modules import Classifier, loaders
from lightning.pytorch import Trainer
from callbacks import HessianSpectrum, LossLandscape
processes = int(sys.argv[1])
trainer = Trainer(accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", logger=False,
                  enable_checkpointing=False, enable_progress_bar=False, default_root_dir=sys.argv[2],
                  enable_model_summary=False)
class Look(LossLandscape):
    def on_validation_end(self, trainer, pl_module):
        self.examine(trainer, pl_module)
class Spectrum(HessianSpectrum):
    def on_validation_end(self, trainer, pl_module):
        self.examine(trainer, pl_module)
trainer.callbacks += [Look("random", points=5, split="val"),
                      Spectrum(split="val", repeats=3, density_steps=6, batch_size=7, precision=64)]
trainer.validate(Classifier(), loaders()["val_dataloaders"], verbose=False)
"""


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path):
    script = tmp_path / "look.py"
    script.write_text(PROCESSES.format(paths=[str(ROOT), str(ROOT / "tests" / "callbacks")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = []
    for processes in ("1", "2"):
        command = [sys.executable, str(script), processes, str(tmp_path / processes)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for process in running:
        output = process.communicate(timeout=300)[0].decode()
        assert process.returncode == 0, output
    one, two = (tmp_path / processes for processes in ("1", "2"))
    surfaces = [read_surface(folder / "landscape" / "landscape_random.npz") for folder in (one, two)]
    np.testing.assert_array_equal(surfaces[0].losses, surfaces[1].losses)
    assert np.unique(surfaces[0].losses).size > 20
    records = [dict(np.load(folder / "hessian" / "record_000.npz")) for folder in (one, two)]
    for key in ("nodes", "weights"):  # whole repeats per process
        np.testing.assert_array_equal(records[0][key], records[1][key])
    for key in ("top", "trace", "loss", "gradient_norm"):  # sums over processes
        np.testing.assert_allclose(records[0][key], records[1][key], rtol=1e-9)


def example(**changes) -> Surface:
    x, y = np.linspace(-1, 1, 9), np.linspace(-2, 2, 7)
    losses = 0.01 + x**2 + 3 * y[:, None] ** 2
    path = np.array([[0.9, 1.8], [0.4, 0.5], [0.0, 0.0]])
    true = 0.01 + path[:, 0] ** 2 + 3 * path[:, 1] ** 2
    arguments = (x, y, losses, 0.01, ["component 1 (90%)", "component 2 (9%)"], path, true, true, 0 * true)
    surface = Surface(*arguments, np.arange(3.0), [f"epoch {t}" for t in range(3)], True, "Loss </script>")
    return surface._replace(**changes)


def test_arrays_survive_a_round_trip(tmp_path):
    surface = example()
    read = read_surface(write_surface(tmp_path / "a" / "surface.npz", surface))
    for before, after in zip(surface, read, strict=True):
        np.testing.assert_array_equal(before, after)
    assert read.connected is True


def test_pictures_show_path_centre_and_labels():
    contour = draw_contour(example())
    axes, bar = contour.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("component 1 (90%)", "component 2 (9%)")
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["epoch 0: 10.5", "0.01"]
    assert bar.get_yscale() == "log"  # the loss spans a factor of a thousand
    assert draw_contour(example(losses=1 + example().losses)).axes[1].get_yscale() != "log"
    assert draw_surface(example()).axes[0].get_zlabel() == "log10 loss"
    line = draw_line(
        example(
            y=np.zeros(1), losses=example().losses[:1], path=np.array([[1.0]]), path_losses=[2.0], path_labels=["other"]
        )
    )
    assert [text.get_text() for text in line.axes[0].texts] == ["other"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_drawn_and_written(tmp_path, value):
    surface = example()
    surface.losses[0, 0] = value
    for draw in (draw_contour, draw_surface):
        draw(surface).savefig(tmp_path / "picture.png")
    assert '"losses": [[null,' in landscape_page(surface)
    write_vti(tmp_path / "grid.vti", surface)


def test_flat_landscapes_are_drawn(tmp_path):
    surface = example(losses=np.full((7, 9), 2.0))
    for draw in (draw_contour, draw_surface):
        draw(surface).savefig(tmp_path / "picture.png")


def test_page_is_whole_and_holds_the_numbers():
    page = landscape_page(example())
    content = page.split('id="data">')[1].split("</script>")[0]
    data = json.loads(content)
    assert data["losses"][3][4] == pytest.approx(0.01)
    assert data["title"] == "Loss </script>"  # escaped in the page
    assert "http" not in page
    assert "src=" not in page


def test_files_for_paraview_hold_the_numbers(tmp_path):
    surface = example()
    image = ET.parse(write_vti(tmp_path / "grid.vti", surface)).getroot().find("ImageData")
    assert image.get("WholeExtent") == "0 8 0 6 0 0"
    assert [float(part) for part in image.get("Spacing").split()] == pytest.approx([0.25, 2 / 3, 1])
    values = np.array(image.find(".//DataArray[@Name='loss']").text.split(), dtype=float)
    np.testing.assert_allclose(values, surface.losses.ravel(), rtol=1e-8)
    path = ET.parse(write_vtp(tmp_path / "path.vtp", surface)).getroot()
    points = np.array(path.find(".//Points/DataArray").text.split(), dtype=float).reshape(-1, 3)
    np.testing.assert_allclose(points[:, 2], surface.path_losses, rtol=1e-8)
    assert path.find(".//Lines/DataArray[@Name='offsets']").text.split() == ["3"]
    loose = ET.parse(write_vtp(tmp_path / "path.vtp", surface._replace(connected=False))).getroot()
    assert loose.find(".//Verts/DataArray[@Name='offsets']").text.split() == ["1", "2", "3"]


@pytest.mark.usefixtures("no_pictures")
def test_command_line_looks_at_a_finished_run(cli, detector_arguments, capsys):
    small = "{directions: pca, points: 3, samples: 20}"
    fit = cli(
        "fit",
        *detector_arguments,
        "--experiment=x",
        "--trainer.max_epochs=2",
        "--trainer.callbacks+=TrajectoryRecorder",
        f"--trainer.callbacks+={{class_path: LossLandscape, init_args: {small}}}",
    )
    run = fit.run_directory
    inside = read_surface(run / "landscape" / "landscape_pca.npz")
    config = str(run / "config.yaml")
    arguments = ["-c", config, "--ckpt_path=last", "--directions=pca", "--points=3", "--samples=20"]
    later = cli("landscape", *arguments)
    outside = read_surface(later.run_directory / "landscape" / "landscape_pca.npz")
    np.testing.assert_array_equal(inside.losses, outside.losses)  # of which none was computed again
    assert len(list((run / "landscape" / "grids").iterdir())) == 2
    assert (later.run_directory / "config.yaml").is_file()
    other = f"[{run / 'checkpoints' / 'last.ckpt'}]"
    with pytest.raises(ValueError, match="has the parameters of the centre"):
        cli("landscape", "-c", config, "--directions=checkpoints", f"--checkpoints={other}", *arguments[2:3])
    with pytest.raises(ValueError, match="points=1"):
        cli("landscape", "-c", config, "--points=1")
