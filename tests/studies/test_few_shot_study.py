"""studies.few_shot: one table and one picture of all variants, from trained or given checkpoints."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from studies import few_shot

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module", "ignore:The '.*_dataloader' does not have many")
CONFIG = ["-c", str(ROOT / "configs/experiments/few_shot_procedural.yaml"), "--trainer.accelerator=cpu"]
SMALL = ["--model.width=4", "--model.critic_width=4", "--model.inner_steps=2", "--model.max_outer_steps=2"]
SMALL += ["--data.train=200", "--data.train_tasks=2", "--data.queries=4", "--data.test_draws=1"]
SMALL += ["--model.adaptation_steps=[0, 2]", "--trainer.enable_progress_bar=false"]


def study(tmp_path, *options):
    return few_shot.run([*CONFIG, *SMALL, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *options])


def test_all_variants_end_in_one_table_and_one_picture(tmp_path):
    table = study(tmp_path, "--shots=2,3", "--full_shots=5", "--full_steps=3")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out/few_shot.csv"), table)
    assert Image.open(tmp_path / "out/few_shot.png").size[0] > 1000
    curve = table[table["figure"] == "colour_accuracy"]
    seen = {(row.variant, row.shots, row.steps) for row in curve.itertuples()}
    learnt = {(name, shots, steps) for name in ("reptile", "joint", "scratch") for shots in (2, 3) for steps in (0, 2)}
    assert seen == learnt | {("full", 5, 3)}
    by_name = few_shot.summary(table).loc["non_hair_l1", 2]
    assert by_name.loc["reptile", 0] != by_name.loc["scratch", 0] != by_name.loc["joint", 0]
    again = study(tmp_path, "--shots=3", "--variants=reptile,joint", "--checkpoints", str(tmp_path / "out"))
    kept = table[(table["shots"] == 3) & table["variant"].isin(["reptile", "joint"])]
    pd.testing.assert_frame_equal(again, kept.reset_index(drop=True))
    assert len(list((tmp_path / "runs").glob("*/*/checkpoints"))) == 2  # nothing was trained again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variants=leap"], "--variants: leap; known are reptile"),
        (["--shots=0"], r"--shots \[0\]"),
        (["--checkpoints=nowhere"], "--checkpoints: there is no folder nowhere"),
    ],
)
def test_mistakes_are_named_before_the_work(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        study(tmp_path, *options)


def test_photographs_without_a_judge_still_have_a_curve():
    rows = [
        {"variant": "reptile", "seed": 0, "shots": 3, "steps": steps, "figure": figure, "value": 0.1}
        for figure in ("hair_colour_error", "non_hair_l1")
        for steps in (0, 5)
    ]
    figure = few_shot.draw_curves(pd.DataFrame(rows))
    assert figure.axes[0].get_ylabel() == "distance from the shots' mean colour"
