"""Every module with every callback and in every way of running: it works, or says in a sentence what it lacks.

``WRITE_DOCS=1 python -m pytest tests/test_house.py`` writes what was seen to docs/compatibility.md.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import house
import pytest
import torch
from conftest import ROOT
from matplotlib.figure import Figure
from processes import run_two, server
from torch.utils.data import DataLoader, DistributedSampler

from callbacks import BiasProbe, HessianSpectrum, LossLandscape, RobustnessIndicators, SampleGrid, WeightAverage

pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = ROOT / "docs" / "compatibility.md"
WORKS = "yes"
CALLBACKS = ("LossLandscape", "HessianSpectrum", "RobustnessIndicators", "WeightAverage", "SampleGrid", "BiasProbe")
WAYS = ("two processes", "bf16-mixed", "torch.compile", "resumed after SIGKILL", "torch.export")
CELLS = [(name, feature) for name in house.MODULES for feature in (*CALLBACKS, *WAYS)]


def watch(name: str, feature: str, folder: Path) -> str:
    """Train, or test, with a callback; what it left behind, or how it refused."""
    player = "generator" if name in house.PLAYERS else None
    few = {"samples": 8, "batch_size": 8, "player": player}
    made = {
        "LossLandscape": lambda: LossLandscape(points=3, **few),
        "HessianSpectrum": lambda: HessianSpectrum(
            top=1, bottom=0, max_steps=4, density_steps=3, repeats=1, trace_probes=1, **few
        ),
        "RobustnessIndicators": lambda: RobustnessIndicators(every_n_epochs=1),
        "WeightAverage": lambda: WeightAverage(0.9),
        "SampleGrid": lambda: SampleGrid(rows=2, columns=2),
        "BiasProbe": lambda: BiasProbe(
            jpeg=(90,), resize=(), blur=(), noise=(), webp=(), crop_phase=(), native_size=1, resamples=2
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **options: Path(file).touch())  # drawing takes seconds
        try:
            if feature == "BiasProbe":
                module = house.fit(name, Path(mkdtemp()), max_epochs=1)
                house.trainer(folder, made[feature]()).test(module, house.loader(), verbose=False)
            else:
                house.fit(name, folder, made[feature](), max_epochs=1)
        except (TypeError, ValueError) as refusal:
            return str(refusal)
    if feature == "WeightAverage":
        assert "weight_average" in torch.load(folder / "last.ckpt", weights_only=True)
    else:
        left = [path for path in folder.rglob("*") if path.is_file() and path.name != "last.ckpt"]
        assert left, f"{feature} left nothing behind"
    return WORKS


@cache
def in_two_processes(strategy: str) -> Path:
    """Weights of each module in each of two processes, started by a server that has done the imports."""
    folder = Path(mkdtemp())
    assert run_two(house.one_of_two, folder, strategy, list(house.MODULES)) == [0, 0]
    return folder


def two_processes(name: str, folder: Path) -> str:
    """Gradients are averaged, so both processes end with the same trained parameters, which are not one's own."""
    one, other = (torch.load(in_two_processes("ddp") / f"{name}_{rank}.pt", weights_only=True) for rank in (0, 1))
    parameters = [key for key, _ in house.build(name).named_parameters()]
    assert all(torch.equal(one[key], other[key]) for key in parameters)
    if name in house.FITTED:  # on the gathered images: everything is equal
        assert all(torch.equal(one[key], other[key]) for key in one)
    return WORKS


def bf16(name: str, folder: Path) -> str:
    """A step in mixed precision leaves finite weights, in full precision."""
    module = house.fit(name, folder, precision="bf16-mixed", max_epochs=1)
    for value in module.state_dict().values():
        assert value.dtype != torch.bfloat16
        assert not value.isnan().any()
    return WORKS


def compiled(name: str, folder: Path) -> str:
    """Traced networks train to the same weights, under the same names."""
    plain = house.fit(name, folder, max_epochs=1).state_dict()
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch:
        plainly = torch.nn.Module.compile
        patch.setattr(torch.nn.Module, "compile", lambda module: plainly(module, backend="eager"))
        module = house.build(name)
        for child in module.children():
            if any(parameter.requires_grad for parameter in child.parameters()):
                child.compile()
        house.trainer(folder, max_epochs=1).fit(module, house.loader(), house.loader())
    state = module.state_dict()
    assert list(state) == list(plain)
    for key, value in state.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-4, atol=1e-5)
    return WORKS


def resumed(name: str, folder: Path) -> str:
    """A process that was killed in its second epoch, and one that goes on: the weights of an uninterrupted run."""
    whole = house.fit(name, folder / "whole").state_dict()
    process = server().Process(target=house.be_killed, args=(name, folder / "killed"))
    process.start()
    process.join(120)
    if name in house.FITTED:
        assert process.exitcode == 0  # one epoch is all there is
        return WORKS
    assert process.exitcode == -9
    last = folder / "killed" / "last.ckpt"
    state = house.fit(name, folder / "killed", resume=last).state_dict()
    assert all(torch.equal(state[key], whole[key]) for key in whole)
    return WORKS


def exported(name: str, folder: Path) -> str:
    """The file gives the module's own answers without our code."""
    module = house.fit(name, folder, max_epochs=1).eval()
    predictor = house.Predictor(module).eval()
    with torch.no_grad():
        expected = predictor(*house.inputs(name))
        program = torch.export.export(predictor, house.inputs(name))
        torch.export.save(program, folder / "model.pt2")
        found = torch.export.load(folder / "model.pt2").module()(*house.inputs(name))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    return WORKS


RUN = dict(zip(WAYS, (two_processes, bf16, compiled, resumed, exported), strict=True))


@cache
def outcome(name: str, feature: str) -> str:
    """ "yes", or the sentence that refuses."""
    folder = Path(mkdtemp())
    return RUN[feature](name, folder) if feature in RUN else watch(name, feature, folder)


@pytest.mark.parametrize(("name", "feature"), CELLS, ids=lambda value: value.replace(" ", "_"))
def test_works_or_says_what_is_missing(name, feature):
    seen = outcome(name, feature)
    assert seen == WORKS or name in seen or "model." in seen, seen


def test_meta_training_in_two_processes_is_that_of_one_with_all_tasks(tmp_path):
    """Each task has random numbers of its own, so only the order of summation differs."""
    name = "FewShotTranslationGAN"
    both = torch.load(in_two_processes("ddp") / f"{name}_0.pt", weights_only=True)
    order = DistributedSampler(house.Samples(), num_replicas=1, rank=0, shuffle=True, seed=0)  # Lightning's for both
    module, joint = house.build(name), DataLoader(house.Samples(), batch_size=16, sampler=order)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    house.trainer(tmp_path).fit(module, joint, joint)
    moved = 0.0
    for key, value in module.state_dict().items():
        torch.testing.assert_close(both[key], value, rtol=1e-4, atol=1e-5)
        moved = max(moved, (value - before[key]).abs().max().item())
    assert moved > 1e-3


def page() -> str:
    """The page in the docs."""
    lines = [
        "# What works with what",
        "",
        "Written and checked by `tests/test_house.py`: each module trains, small, with each callback and in each way.",
        "A number refers to the sentence below with which it is refused.",
        "",
    ]
    notes: list[str] = []
    for title, features in (("Callbacks", CALLBACKS), ("Ways to run", WAYS)):
        lines += [f"## {title}", "", f"| module | {' | '.join(features)} |", "| --- " * (len(features) + 1) + "|"]
        for name in house.MODULES:
            cells = []
            for feature in features:
                seen = outcome(name, feature).replace(name, "MODULE")
                if seen != WORKS and seen not in notes:
                    notes.append(seen)
                cells.append(seen if seen == WORKS else str(1 + notes.index(seen)))
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Refusals", "", *(f"{index}. {note}" for index, note in enumerate(notes, 1)), ""]
    return "\n".join(lines)


def test_the_page_in_the_docs_says_what_was_seen():
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "write it anew: WRITE_DOCS=1 python -m pytest tests/test_house.py"
