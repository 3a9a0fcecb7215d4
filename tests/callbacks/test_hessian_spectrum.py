"""Spectra during training and of finished runs: records, offline recomputation, players, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from landscape_modules import Classifier, TwoPlayers, loaders, trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure

from callbacks import HessianSpectrum
from callbacks.hessian_plots import draw_spectrum, draw_spectrum_over_time
from callbacks.hessian_records import read_records

SMALL = {"samples": 30, "batch_size": 13, "density_steps": 8, "repeats": 2, "trace_probes": 3, "precision": 64}


@pytest.fixture
def no_pictures(monkeypatch):
    """Empty pictures, for tests that look at numbers only."""
    monkeypatch.setattr("callbacks.hessian_spectrum.draw_spectrum", lambda *_: Figure(figsize=(1, 1)))
    monkeypatch.setattr("callbacks.hessian_spectrum.draw_spectrum_over_time", lambda *_: Figure(figsize=(1, 1)))


def dense(model: Classifier, samples: np.ndarray) -> np.ndarray:
    """All eigenvalues at the model's parameters, without the code under test."""
    copy = Classifier().double().eval()
    copy.load_state_dict(model.state_dict())
    data = loaders()["val_dataloaders"].dataset
    images, labels = data.images[samples].double(), data.labels[samples]
    names = [name for name, _ in copy.named_parameters()]
    shapes = [parameter.shape for parameter in copy.parameters()]

    def loss(vector: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        state = {name: part.view(shape) for name, part, shape in zip(names, pieces, shapes, strict=True)}
        return copy.loss(torch.func.functional_call(copy, state, (images,)), labels)

    point = torch.nn.utils.parameters_to_vector(copy.parameters()).detach()
    return np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point).numpy())


def chosen() -> np.ndarray:
    return np.unique(np.linspace(0, 47, 30).round().astype(int))


def test_one_record_per_epoch_that_an_offline_recomputation_confirms(tmp_path):
    spectrum, model = HessianSpectrum(tolerance=1e-8, **SMALL), Classifier()
    keep = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{epoch}")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        trainer(tmp_path, spectrum, keep, epochs=3, enable_checkpointing=True).fit(model, **loaders())
    records = read_records(tmp_path / "hessian")
    assert [float(record["epoch"]) for record in records] == [0, 1, 2, 3]
    for record in records:
        assert (record["weights"] >= 0).all()
        np.testing.assert_allclose(record["weights"].sum(axis=1), 1)
        assert record["nodes"].shape == (2, 8)
        assert 0 <= record["negative_mass"] <= 1
        assert int(record["samples"]) == 30
    for epoch, record in enumerate(records[1:]):
        saved = Classifier()
        saved.load_state_dict(torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"])
        values = dense(saved, chosen())
        np.testing.assert_allclose(record["top"], values[:-3:-1], rtol=1e-5)
        np.testing.assert_allclose(record["bottom"], values[:1], rtol=1e-3)
        deviation = np.sqrt(2 * (values**2).sum() / 3)  # at most, for three probes of random signs
        assert abs(record["trace"] - values.sum()) < 4 * deviation
    table = pd.read_csv(tmp_path / "hessian" / "spectrum_table.csv")
    np.testing.assert_allclose(table["top_1"], [record["top"][0] for record in records])
    for name in ("spectrum_over_time.png", "spectrum_over_time.svg", "spectrum_00000012.png"):
        assert (tmp_path / "hessian" / name).stat().st_size > 5000


@pytest.mark.usefixtures("no_pictures")
def test_curvature_along_the_gradient_and_its_norm(tmp_path):
    model = Classifier()
    run = trainer(tmp_path, epochs=1)
    run.fit(model, **loaders())
    (record,) = HessianSpectrum(**SMALL).examine(run, model)
    copy = Classifier().double().eval()
    copy.load_state_dict(model.state_dict())
    data = loaders()["val_dataloaders"].dataset
    batch = {"image": data.images[chosen()].double(), "label": data.labels[chosen()]}
    parameters = list(copy.parameters())
    loss = copy.objective(batch)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    square = sum((part**2).sum() for part in gradient)
    product = torch.autograd.grad(0.5 * square, parameters)  # H g
    along = sum((p * g).sum() for p, g in zip(product, gradient, strict=True)) / square
    assert record["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert record["gradient_norm"] == pytest.approx(float(square.detach().sqrt()), rel=1e-9)
    assert record["gradient_curvature"] == pytest.approx(float(along.detach()), rel=1e-8)


@pytest.mark.usefixtures("no_pictures")
def test_steps_as_intervals_and_a_trace_from_the_quadrature(tmp_path):
    spectrum = HessianSpectrum(every_n_steps=3, **{**SMALL, "trace_probes": 0})
    trainer(tmp_path, spectrum, epochs=2).fit(Classifier(), **loaders())
    records = read_records(tmp_path / "hessian")
    assert [int(record["step"]) for record in records] == [0, 3, 6, 8]
    mean = (records[0]["weights"] * records[0]["nodes"]).sum(axis=1).mean()
    assert records[0]["trace"] == pytest.approx(mean * int(records[0]["parameters"]))


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_replaces_later_records(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{epoch}")
    options = {"enable_checkpointing": True, "epochs": 3}
    trainer(tmp_path, HessianSpectrum(**SMALL), keep, **options).fit(Classifier(), **loaders())
    stale = tmp_path / "hessian" / "record_00000099.npz"
    stale.write_bytes((tmp_path / "hessian" / "record_00000012.npz").read_bytes())
    run = trainer(tmp_path, HessianSpectrum(**SMALL), epochs=3)
    run.fit(Classifier(), **loaders(), ckpt_path=str(tmp_path / "epoch=1.ckpt"), weights_only=True)
    assert [int(record["step"]) for record in read_records(tmp_path / "hessian")] == [0, 4, 8, 12]
    assert not stale.exists()


@pytest.mark.usefixtures("no_pictures")
def test_gauss_newton_has_no_negative_eigenvalues(tmp_path):
    model = Classifier()
    run = trainer(tmp_path, epochs=1)
    run.fit(model, **loaders())
    (record,) = HessianSpectrum(matrix="gauss_newton", **SMALL).examine(run, model)
    assert record["nodes"].min() > -1e-10
    assert record["negative_mass"] == 0
    assert record["top"][0] > 0


@pytest.mark.usefixtures("no_pictures")
def test_spectra_of_players(tmp_path):
    """The critic's loss is w^T A w with A the mean of g g^T: its Hessian is 2 A, of rank and size three."""
    model = TwoPlayers()
    spectra = [
        HessianSpectrum(player=player, bottom=0, density_steps=3, repeats=1) for player in ("critic", "generator")
    ]
    trainer(tmp_path, *spectra, epochs=1).fit(model, **loaders())
    for player, size in (("critic", 3), ("generator", 12)):
        records = read_records(tmp_path / f"hessian_{player}")
        assert [int(record["parameters"]) for record in records] == [size, size]
    nodes = read_records(tmp_path / "hessian_critic")[-1]["nodes"]
    assert nodes.min() > 0
    generator = read_records(tmp_path / "hessian_generator")[-1]
    assert generator["top"][0] > 0


@pytest.mark.usefixtures("no_pictures")
def test_command_line_of_a_finished_run_agrees_with_training(cli, detector_arguments):
    small = "{samples: 20, density_steps: 4, repeats: 1, trace_probes: 0, bottom: 0}"
    fit = cli(
        "fit",
        *detector_arguments,
        "--experiment=x",
        "--trainer.max_epochs=1",
        f"--trainer.callbacks+={{class_path: HessianSpectrum, init_args: {small}}}",
    )
    logged = pd.read_csv(fit.run_directory / "csv" / "metrics.csv")["hessian/top_1"].dropna()
    last = str(fit.run_directory / "checkpoints" / "last.ckpt")
    arguments = ["--samples=20", "--density_steps=4", "--repeats=1", "--trace_probes=0", "--bottom=0"]
    config = str(fit.run_directory / "config.yaml")
    later = cli("spectrum", "-c", config, f"--ckpt_path={last}", f"--checkpoints=[{last}]", *arguments)
    records = read_records(later.run_directory / "hessian")
    assert [str(record["label"]) for record in records] == ["last", "model"]
    for record in records:
        assert float(record["top"][0]) == pytest.approx(logged.iloc[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"top": 0, "bottom": 0}, "top=0, bottom=0"),
        ({"repeats": 0}, "repeats=0"),
        ({"matrix": "fisher"}, "matrix='fisher'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        HessianSpectrum(**arguments)


def test_modules_without_what_is_needed_are_refused():
    with pytest.raises(TypeError, match=r"LightningModule\.objective\(batch\)"):
        HessianSpectrum().setup(None, LightningModule(), "fit")
    with pytest.raises(TypeError, match=r"TwoPlayers\.loss\(outputs, label\)"):
        HessianSpectrum(matrix="gauss_newton", player="critic").setup(None, TwoPlayers(), "fit")


def test_pictures_state_smoothing_and_eigenvalues():
    rng = np.random.default_rng(0)
    records = [
        {
            "epoch": float(epoch),
            "loss": 1.0 / (epoch + 1),
            "trace": 5.0 + epoch,
            "top": np.array([9.0, 4.0]),
            "bottom": np.array([-1.0]),
            "nodes": rng.normal(size=(2, 5)),
            "weights": np.full((2, 5), 0.2),
            "negative_mass": 0.25,
            "negative_threshold": 0.009,
            "trace_error": 0.5,
            "parameters": 1000,
        }
        for epoch in range(3)
    ]
    (axes,) = draw_spectrum(records[0]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0].startswith("density, sigma = ")
    assert labels[1:] == ["largest: 9, 4", "smallest: -1"]
    assert "25.0% below -0.009" in axes.get_title()
    upper = draw_spectrum_over_time(records).axes[0]
    assert len(set(upper.lines[0].get_ydata())) == 1  # the largest eigenvalue stays
    assert "0" in [label.get_text() for label in upper.get_yticklabels()]
