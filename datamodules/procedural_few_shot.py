"""Few-shot hair colours on procedural faces: eight colours to learn from, four that are kept for the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.few_shot_episodes import EpisodePlan, Episodes, FewShotEpisodes, Pool
from datamodules.synthetic.face_parameters import HAIR_COLOURS, HELD_OUT_HAIR_COLOURS, FaceParameters, draw_faces
from datamodules.synthetic.faces import hair_mask, render_faces

__all__ = ["ProceduralFewShotDataModule"]

_AT_ONCE = 256


class _FacePool(Pool):
    """Rendered faces whose hair is known exactly."""

    def __init__(self, faces: FaceParameters, size: int, name: str) -> None:
        names = [f"{name}_{index:05d}.png" for index in range(len(faces))]
        super().__init__(faces.hair.numpy(), names, list(HAIR_COLOURS))
        self.faces, self.size = faces, size
        parts = [faces[start : start + _AT_ONCE] for start in range(0, len(faces), _AT_ONCE)]
        self.images = torch.cat([(render_faces(part, size) * 255).round().byte() for part in parts])

    def load(self, rows: NDArray[np.int64]) -> Tensor:
        return self.images[torch.from_numpy(rows)]

    def hair(self, rows: NDArray[np.int64], images: Tensor) -> Tensor:
        return hair_mask(self.faces[torch.from_numpy(rows)], self.size)

    def changeable(self, rows: NDArray[np.int64]) -> Tensor:
        return hair_mask(self.faces[torch.from_numpy(rows)], self.size)

    def truth(self, rows: NDArray[np.int64], colour: Tensor) -> Tensor:
        faces = self.faces[torch.from_numpy(rows)]
        return render_faces(replace(faces, hair_colour=colour.expand(len(rows), 3)), self.size)


class ProceduralFewShotDataModule(FewShotEpisodes):
    """Drawn faces: shots of one colour of hair, faces of other colours, and their exact counterfactuals.

    Training tasks take eight colours in turn as the target; validation and test have the four that were held out, each
    with several draws of shots. Nothing is downloaded. ``predict`` translates held-out faces to the first of them.

    Args:
        train: faces to make training tasks of.
        held_out: colours that no training task has.
        palette_jitter: standard deviation, in units of the range, by which held-out colours differ from the palette;
            drawn anew for each ``seed``, besides the variation from face to face.
        image_size: side of the pictures.
        kwargs: as for other episodes: ``shots``, ``sources``, ``queries``, ``train_tasks``, ``test_draws``,
            ``recoloured`` (colours near to held-out ones are left out), ``batch_size``, ``num_workers``, ``seed``.

    Raises:
        ValueError: if a colour is unknown, or fewer than two are left to learn from.
    """

    def __init__(
        self,
        train: int = 4000,
        held_out: list[str] | None = None,
        palette_jitter: float = 0.02,
        image_size: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        held_out = list(HELD_OUT_HAIR_COLOURS) if held_out is None else held_out
        unknown = sorted(set(held_out) - set(HAIR_COLOURS))
        if unknown or not held_out or len(set(held_out)) > len(HAIR_COLOURS) - 2:
            raise ValueError(
                f"data.held_out={held_out}: name some of {', '.join(HAIR_COLOURS)}, and leave two to learn from."
            )
        if train < 1 or palette_jitter < 0:
            raise ValueError(f"data.train={train} must be at least 1, palette_jitter={palette_jitter} not negative.")
        self.train_count, self.palette_jitter = train, palette_jitter
        self.names = list(HAIR_COLOURS)
        self.target_names = dict(enumerate(self.names))
        self.held_out = tuple(self.names.index(name) for name in held_out)
        self.known = tuple(index for index in range(len(self.names)) if index not in self.held_out)
        self.palette = torch.tensor(list(HAIR_COLOURS.values()))

    def setup(self, stage: str) -> None:
        """Draw the faces."""
        train = self._pool("train", self.train_count, self.known)
        everyone = self.known + self.held_out
        val, test = (self._pool(part, 20 * self.queries, everyone) for part in ("val", "test"))
        shots = self._pool("shots", 2 * len(self.held_out) * max(50, 2 * self.shots), self.held_out)
        plan = EpisodePlan(self.known, self.known, self.shots, self.sources, palette=self.palette)
        learnt = replace(plan, recoloured=self.recoloured, forbidden=self.held_out)
        judged = replace(plan, targets=self.held_out, queries=self.queries)
        self.train_set = Episodes(learnt, self.train_tasks, train)
        count = self.test_draws * len(self.held_out)
        self.val_set = Episodes(judged, count, train, val, shots)
        self.test_sets = {"held_out": Episodes(judged, count, train, test, shots)}
        self.predict_set = _Named(test, np.flatnonzero(np.isin(test.classes, self.known))[: self.queries])
        first = np.flatnonzero(shots.classes == self.held_out[0])[: self.shots]
        self.support, self.predict_sources = shots.load(first), train.load(np.arange(min(128, len(train.classes))))

    def _pool(self, part: str, count: int, colours: tuple[int, ...]) -> _FacePool:
        number = ("train", "val", "test", "shots").index(part)
        draws = torch.Generator().manual_seed(4 * self.seed + number)
        faces = draw_faces(count, draws, tuple(self.names[index] for index in colours))
        if part == "shots":
            moved = self.palette_jitter * torch.randn(self.palette.shape, generator=draws)
            faces = replace(faces, hair_colour=(faces.hair_colour + moved[faces.hair]).clamp(0, 1))
        return _FacePool(faces, self.image_size, part)


class _Named(torch.utils.data.Dataset[dict[str, Any]]):
    """Images of a pool one by one, for ``predict``."""

    def __init__(self, pool: Pool, rows: NDArray[np.int64]) -> None:
        self.pool, self.rows = pool, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        row = self.rows[index]
        return {"image": self.pool.load(self.rows[[index]])[0], "path": self.pool.names[row], "seed": seed}
