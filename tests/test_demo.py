"""The demo, on a small world: every table and picture that it promises."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT


@pytest.mark.slow
def test_demo_leaves_its_tables_and_pictures(monkeypatch, capsys):
    import demo

    monkeypatch.setattr(demo, "CONFIGS", ROOT / "configs")
    demo.run(["--data.train={nearest: 60, bilinear: 60}", "--data.val=4", "--trainer.max_epochs=3"])
    table = pd.read_csv("runs/demo/shortcut.csv")
    assert len(table) == 8
    assert table[["TPR", "TNR"]].stack().between(0, 100).all()
    for regime in ("raw", "constrained"):
        for stem in ("cross_generator", "cross_generator_jpeg96"):
            matrix = pd.read_csv(f"runs/demo/{regime}/{stem}.csv", index_col=0)
            assert list(matrix.index) == ["nearest", "bilinear"]
            assert matrix.shape == (2, 5)
    difference = pd.read_csv("runs/demo/constrained/cross_generator_difference.csv", index_col=0)
    raw, constrained = (
        pd.read_csv(f"runs/demo/{name}/cross_generator.csv", index_col=0) for name in ("raw", "constrained")
    )
    pd.testing.assert_frame_equal(difference, constrained - raw, check_exact=False)
    (page,) = Path("runs/demo/audit").glob("*/audit.html")
    printed = capsys.readouterr().out
    for name in ("shortcut.png", "world.png", "probe.png", "constrained/cross_generator_difference.png"):
        assert f"runs/demo/{name}" in printed
        assert Path("runs/demo", name).stat().st_size > 5000
    assert str(page) in printed
