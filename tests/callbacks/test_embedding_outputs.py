"""Pictures of embeddings: what they show, on which images, for which modules."""

from __future__ import annotations

import matplotlib.colors as colors
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

import callbacks.embedding_outputs as module
from callbacks import EmbeddingMap, EmbeddingWriter, NeighbourSheet
from callbacks.embedding_plots import draw_embedding, draw_neighbours, flatten_embedding


class Colour(LightningModule):
    """The embedding of an image is its mean colour."""

    def embed(self, x):
        return x.mean(dim=(2, 3))

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass


def images(count=40):
    generator = torch.Generator().manual_seed(0)
    palette = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]])
    return [
        {
            "image": (palette[i % 4] + 0.1 * torch.rand(3, generator=generator))[:, None, None].expand(3, 6, 6).clone(),
            "label": i % 4,
        }
        for i in range(count)
    ]


def run(callbacks, tmp_path, stage="validate", model=None):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        logger=False,
    )
    getattr(trainer, stage)(model or Colour(), DataLoader(dataset=images(), batch_size=8), verbose=False)
    return tmp_path


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_pictures_are_written(stage, tmp_path, monkeypatch):
    drawn = {}
    draw = module.log_figure
    monkeypatch.setattr(
        module, "log_figure", lambda t, d, name, figure: drawn.update({name: figure}) or draw(t, d, name, figure)
    )
    watchers = [EmbeddingMap(20), EmbeddingMap(20, "tsne"), NeighbourSheet(20, queries=3, neighbours=4)]
    run(watchers, tmp_path, stage)
    for name in ("embedding_pca", "embedding_tsne", "neighbours"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert len(drawn["embedding_pca"].axes[0].collections[0].get_offsets()) == 20
    assert [text.get_text() for text in drawn["embedding_pca"].axes[0].get_legend().get_texts()] == list("0123")
    assert len(drawn["neighbours"].axes) == 3 * 5
    assert all(not watcher._kept for watcher in watchers)


def test_principal_components_keep_distances_of_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(30, 2)) @ np.linalg.qr(rng.normal(size=(5, 2)))[0].T + 7
    flat = flatten_embedding(plane, "pca")
    original, shown = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (plane, flat))
    np.testing.assert_allclose(shown, original, atol=1e-9)
    assert flatten_embedding(plane, "tsne").shape == (30, 2)


def test_neighbours_are_framed_by_class():
    line = np.array([0.0, 1.0, 2.1, 10.0, 11.0])[:, None]
    labels = np.array([0, 0, 1, 1, 1])
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)
    figure = draw_neighbours(line, labels, pictures, queries=3, neighbours=2)
    shown = [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes]
    assert shown == [0, 1, 2, 2, 1, 0, 1, 0, 2]  # the first of each class, then the second
    frames = [axes.spines["top"].get_edgecolor() for axes in figure.axes]
    names = ["black", "tab:green", "tab:red", "black", "tab:red", "tab:red", "black", "tab:green", "tab:red"]
    assert frames == [colors.to_rgba(name) for name in names]


def test_many_classes_need_no_legend():
    points = np.random.default_rng(0).normal(size=(60, 2))
    assert draw_embedding(points, np.arange(60) % 30, "tsne").axes[0].get_legend() is None


def test_modules_and_settings_that_do_not_fit_are_refused(tmp_path):
    class Plain(LightningModule):
        def validation_step(self, batch, batch_idx):
            pass

    with pytest.raises(TypeError, match=r"EmbeddingMap needs Plain.embed\(x\), which it lacks"):
        run([EmbeddingMap()], tmp_path, model=Plain())
    with pytest.raises(TypeError, match=r"EmbeddingWriter needs Colour.cluster\(embeddings\)"):
        run([EmbeddingWriter()], tmp_path)
    for build in (lambda: EmbeddingMap(1), lambda: EmbeddingMap(method="umap"), lambda: NeighbourSheet(queries=0)):
        with pytest.raises(ValueError, match=r"images=1|method='umap'|queries=0"):
            build()
