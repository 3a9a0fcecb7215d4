"""Pictures of attacks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from callbacks.adversarial_plots import AttackedExample, draw_attacks, draw_transfer


def test_a_row_for_each_attack_with_its_change_and_scores():
    rng = np.random.default_rng(0)
    image = rng.random((3, 16, 16)).astype(np.float32)
    board = np.float32(np.indices((16, 16)).sum(axis=0) % 2 * 2 - 1)
    examples = {
        "fgsm": AttackedExample(image, image + 0.03 * board, ("3", "5"), (-4.0, 2.0)),
        "nothing": AttackedExample(image, image, ("3", "3"), (-1.0, -1.0)),
    }
    figure = draw_attacks(examples, "input_mfs")
    rows = [figure.axes[start : start + 5] for start in (0, 5)]
    titles = [[axes.get_title() for axes in row] for row in rows]
    assert titles[0] == ["clean: 3", "attacked: 5", "change, at most 0.030", "change of log |F|", "score of input_mfs"]
    assert "at most 0.000" in titles[1][2]
    spectrum = rows[0][3].images[0].get_array()
    assert np.unravel_index(np.argmax(np.abs(spectrum)), spectrum.shape) == (0, 0), "a checkerboard, at the corner"
    assert [bar.get_width() for bar in rows[0][4].patches] == [-4.0, 2.0]


def test_transfer_matrix_shows_means_over_seeds():
    rows = [
        {"features": name, "trained_on": a, "tested_on": b, "seed": seed, "auroc": value + 0.1 * seed}
        for name in ("input_mfs", "lid")
        for a in ("fgsm", "bim")
        for b, value in (("fgsm", 0.8), ("bim", 0.6), ("pgd", 0.4))
        for seed in (0, 1)
    ]
    figure = draw_transfer(pd.DataFrame(rows))
    assert [axes.get_title() for axes in figure.axes] == ["input_mfs: auroc", "lid: auroc"]
    cells = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(cells, [[0.85, 0.65, 0.45]] * 2)
