"""A module held still: full precision, fixed data, and nothing left changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from landscape_modules import Classifier, TwoPlayers, loaders, trainer
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel

from callbacks.analysis import Analysis
from callbacks.analysis_parts import buffers_of, check_objective, parameters_of


class Look(Callback):
    """Hold the module still at every hook that matters, and compare it before and after."""

    def __init__(self, **kwargs) -> None:
        self.analysis = Analysis(**kwargs)
        self.seen: list[tuple[float, torch.dtype, bool]] = []

    def look(self, run, module) -> None:
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        places = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
        gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        modes = [part.training for part in module.modules()]
        state, stage = torch.get_rng_state(), run.state.stage
        with self.analysis.hold(run, module) as still:
            still.operator(shared=True) @ torch.ones(sum(p.numel() for p in still.parameters))
            with torch.no_grad():
                still.parameters[0].add_(1)
            self.seen.append((still.loss(), still.parameters[0].dtype, torch.is_autocast_enabled("cpu")))
            torch.rand(3)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
        assert places == {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)
        assert modes == [part.training for part in module.modules()]
        assert torch.equal(torch.get_rng_state(), state)
        assert run.state.stage == stage

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == 1:
            self.look(trainer, pl_module)

    def on_validation_end(self, trainer, pl_module) -> None:
        self.look(trainer, pl_module)  # in inference mode


@pytest.mark.parametrize("bn_mode", ["eval", "train", "recompute"])
def test_nothing_is_changed_within_training_and_validation(tmp_path, bn_mode):
    look = Look(bn_mode=bn_mode, samples=20, batch_size=8, precision=64)
    plain = Classifier()
    torch.manual_seed(3)
    trainer(tmp_path, epochs=2, num_sanity_val_steps=0).fit(plain, **loaders())
    watched = Classifier()
    torch.manual_seed(3)
    trainer(tmp_path, look, epochs=2, num_sanity_val_steps=0).fit(watched, **loaders())
    assert len(look.seen) == 4
    assert {dtype for _, dtype, _ in look.seen} == {torch.float64}
    for (name, tensor), other in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_full_precision_under_mixed_and_half_precision(tmp_path, precision):
    look = Look(samples=20)
    trainer(tmp_path, look, epochs=1, precision=precision, num_sanity_val_steps=0).fit(Classifier(), **loaders())
    assert {(dtype, autocast) for _, dtype, autocast in look.seen} == {(torch.float32, False)}


def test_samples_are_spread_over_the_data_and_the_batch_size_does_not_matter(tmp_path):
    model = Classifier()
    run = trainer(tmp_path, epochs=1)
    run.fit(model, **loaders())
    losses = []
    for batch_size in (7, 20):
        with Analysis(samples=20, batch_size=batch_size, precision=64).hold(run, model) as still:
            assert sum(still.counts) == 20
            paths = [int(path) for batch in still.batches for path in batch["path"]]
            assert (paths[0], paths[-1]) == (0, 47)
            assert paths == sorted(set(paths))
            losses.append(still.loss())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    model.eval()
    data = loaders()["val_dataloaders"].dataset
    truth = F.cross_entropy(model(data.images[paths]), data.labels[paths])
    assert losses[0] == pytest.approx(float(truth.detach()), rel=1e-5)


class Attention(Classifier):
    """Fused attention and a recurrent layer, compiled; neither has a second derivative in its fast form."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 2, 16, 0.0, batch_first=True))
        self.memory, self.head = nn.LSTM(64, 5, batch_first=True), nn.Linear(5, 2)
        self.network.compile()

    def forward(self, x):
        return self.head(self.memory(self.network(x))[0][:, -1])


def test_attention_recurrence_and_compiled_networks_have_hessians(tmp_path):
    model = Attention()
    run = trainer(tmp_path, epochs=0)
    run.fit(model, **loaders())
    with Analysis(samples=6, precision=64).hold(run, model) as still:
        operator = still.operator(shared=True)
        vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        other = torch.randn(operator.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert float(other @ (operator @ vector)) == pytest.approx(float(vector @ (operator @ other)), rel=1e-8)


def test_parameters_are_those_that_are_trained_under_their_plain_names():
    model = Classifier()
    names = list(parameters_of(model))
    model.network[0].bias.requires_grad_(False)
    model.average = AveragedModel(model.network)
    assert list(parameters_of(model)) == [name for name in names if name != "network.0.bias"]
    model.network = torch.compile(model.network)
    assert list(parameters_of(model)) == [name for name in names if name != "network.0.bias"]
    assert "network.1.running_mean" in buffers_of(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters that are trained"):
        parameters_of(model)


def test_players():
    assert list(parameters_of(TwoPlayers(), "critic")) == ["weight"]
    with pytest.raises(ValueError, match="player='judge' is no submodule of TwoPlayers; it has generator, critic"):
        check_objective(TwoPlayers(), "judge")
    with pytest.raises(TypeError, match=r"LightningModule\.objective\(batch\)"):
        check_objective(LightningModule(), None)


@pytest.mark.parametrize(
    "change", [{"split": "test"}, {"samples": 0}, {"precision": 16}, {"bn_mode": "frozen"}, {"batch_size": 0}]
)
def test_refusals(change):
    (key,) = change
    with pytest.raises(ValueError, match=f"{key}="):
        Analysis(**change)


def test_data_of_unknown_length_are_refused(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from loaders()["val_dataloaders"].dataset

    run, model = trainer(tmp_path, epochs=1, limit_train_batches=1), Classifier()
    run.fit(model, train_dataloaders=torch.utils.data.DataLoader(dataset=Stream(), batch_size=4))
    with (
        pytest.raises(TypeError, match=r"split=train: .* known length"),
        Analysis().hold(run, model),
    ):
        pass
