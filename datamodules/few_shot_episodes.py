"""Episodes of few-shot translation: shots of a class, images to translate to it, and the truth where it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.base import ImageDataModule, as_float
from functional.recolouring import mean_colour, nearest_colour, recolour

__all__ = ["EpisodePlan", "Episodes", "FewShotEpisodes", "Pool"]

Stage = Literal["train", "val", "test"]


class Pool:
    """Images of known classes to make episodes of.

    Subclasses say in :meth:`load` how images are read, and may say where hair is and what the truth looks like.

    Args:
        classes: class of each image, ``(N,)``.
        names: of the images.
        class_names: of the classes.
    """

    def __init__(self, classes: NDArray[np.int64], names: list[str], class_names: list[str]) -> None:
        self.classes, self.names, self.class_names = classes, names, class_names

    def load(self, rows: NDArray[np.int64]) -> Tensor:
        """Images as uint8 ``(n, 3, S, S)``."""
        raise TypeError(f"{type(self).__name__} must say how its images are read: define load(rows).")

    def hair(self, rows: NDArray[np.int64], images: Tensor) -> Tensor:
        """Where their hair is, or may be, ``(n, 1, S, S)`` in [0, 1]; images are float in [0, 1]."""
        raise TypeError(f"{type(self).__name__} must say where hair is: define hair(rows, images).")

    def changeable(self, rows: NDArray[np.int64]) -> Tensor:
        """What a translation may change, ``(n, 1, S, S)`` in [0, 1]; the rest is to stay."""
        raise TypeError(f"{type(self).__name__} must say what may change: define changeable(rows).")

    def truth(self, rows: NDArray[np.int64], colour: Tensor) -> Tensor | None:
        """The same images with hair of a colour ``(3,)``, ``(n, 3, S, S)``, where that is known."""
        return None


@dataclass(frozen=True)
class EpisodePlan:
    """What every episode of a stage is made of.

    Args:
        targets: classes that shots are drawn from.
        source_classes: classes of the images to translate, in the order of the slots.
        shots: labelled images of the target.
        sources: images to translate during adaptation.
        queries: held-out images to translate afterwards; 0 for training episodes.
        recoloured: share of tasks whose shots get hair of a random colour.
        palette: colours of all classes, ``(P, 3)``, where classes are colours.
        forbidden: colours of the palette that recoloured shots may not come near to.
    """

    targets: tuple[int, ...]
    source_classes: tuple[int, ...]
    shots: int
    sources: int
    queries: int = 0
    recoloured: float = 0.0
    palette: Tensor | None = None
    forbidden: tuple[int, ...] = ()


class Episodes(Dataset[dict[str, Any]]):
    """Tasks, each a function of its draw's seed.

    Args:
        plan: what they are made of.
        count: how many; item i has the target ``targets[i % len(targets)]`` if there are queries, else a random one.
        pool: images of shots and sources.
        query_pool: held-out sources; images of the target in it are what translations are compared with.
        shot_pool: where shots come from, if not from the pool.
    """

    def __init__(
        self, plan: EpisodePlan, count: int, pool: Pool, query_pool: Pool | None = None, shot_pool: Pool | None = None
    ) -> None:
        self.plan, self.count, self.pool = plan, count, pool
        self.query_pool, self.shot_pool = query_pool, shot_pool or pool
        for target in plan.targets:
            found = int((self.shot_pool.classes == target).sum())
            if found < plan.shots:
                name = self.shot_pool.class_names[target]
                raise ValueError(f"data.shots={plan.shots}: {name} has only {found} images to draw them from.")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        rng = np.random.default_rng(seed)
        plan = self.plan
        target = plan.targets[index % len(plan.targets) if plan.queries else int(rng.integers(len(plan.targets)))]
        shots = rng.permutation(np.flatnonzero(self.shot_pool.classes == target))[: plan.shots]
        support = self.shot_pool.load(shots)
        if rng.random() < plan.recoloured:
            support, target = self._recoloured(shots, as_float(support), rng), -1
        slots = {name: slot for slot, name in enumerate(plan.source_classes)}
        allowed = np.isin(self.pool.classes, [name for name in plan.source_classes if name != target])
        rows = rng.choice(np.flatnonzero(allowed), plan.sources)
        episode = {
            "support_image": support,
            "source_image": self.pool.load(rows),
            "source_slot": torch.tensor([slots[int(name)] for name in self.pool.classes[rows]]),
            "target": target,
            "seed": seed,
        }
        return episode if self.query_pool is None else {**episode, **self._queries(self.query_pool, target, shots)}

    def _recoloured(self, rows: NDArray[np.int64], images: Tensor, rng: np.random.Generator) -> Tensor:
        mask = self.shot_pool.hair(rows, images)
        while True:
            colour = torch.from_numpy(rng.random(3)).float().expand(len(rows), 3)
            shade = 0.04 * torch.from_numpy(rng.standard_normal((len(rows), 3))).float()
            painted = recolour(images, mask, (colour + shade).clamp(0, 1))
            if self.plan.palette is None:
                break
            seen = nearest_colour(mean_colour(painted, mask).mean(0, keepdim=True), self.plan.palette)
            if int(seen) not in self.plan.forbidden:
                break
        return (painted * 255).round().byte()

    def _queries(self, pool: Pool, target: int, shots: NDArray[np.int64]) -> dict[str, Any]:
        plan = self.plan
        rows = np.flatnonzero(np.isin(pool.classes, plan.source_classes) & (pool.classes != target))[: plan.queries]
        found = {
            "query_image": pool.load(rows),
            "query_hair": pool.changeable(rows),
            "support_hair": self.shot_pool.changeable(shots),
        }
        if plan.palette is not None:
            found["palette"] = plan.palette
            truth = pool.truth(rows, plan.palette[target])
            if truth is not None:
                found["query_truth"] = truth
        real = np.flatnonzero(pool.classes == target)[: plan.queries]
        return {**found, "query_real": pool.load(real)} if len(real) > 1 else found


class FewShotEpisodes(ImageDataModule):
    """Batches of episodes; ``batch_size`` is the number of tasks that an outer step learns from, per process.

    An episode has ``support_image`` ``(K, 3, S, S)``, the shots; ``source_image`` ``(M, 3, S, S)`` and ``source_slot``
    ``(M,)``, images of other classes; ``target``, the class, -1 for a recoloured one. For validation and test also
    ``query_image`` ``(Q, 3, S, S)``, held-out sources, ``query_hair`` ``(Q, 1, S, S)``, what may change,
    ``support_hair`` ``(K, 1, S, S)``, the same of the shots, and where they are known ``query_truth``, ``query_real``
    and ``palette`` ``(P, 3)``. All are stacked along the first dimension.

    For ``predict``, batches have ``image`` and ``path``, and with them the shots and sources of the one task.

    Args:
        shots: labelled images of a target class.
        sources: images of other classes in an episode.
        queries: held-out images that an adapted generator is judged by.
        train_tasks: episodes of a training epoch.
        test_draws: draws of shots for each held-out class.
        recoloured: share of training tasks whose shots get hair of a random colour.
        kwargs: as for :class:`ImageDataModule`.

    Raises:
        ValueError: if a number makes no sense.
    """

    support: Tensor
    predict_sources: Tensor

    def __init__(
        self,
        shots: int = 10,
        sources: int = 128,
        queries: int = 100,
        train_tasks: int = 100,
        test_draws: int = 2,
        recoloured: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(shots, sources, queries, train_tasks, test_draws) < 1 or not 0 <= recoloured <= 1:
            raise ValueError(
                f"data.shots={shots}, sources={sources}, queries={queries}, train_tasks={train_tasks} and "
                f"test_draws={test_draws} must be at least 1, recoloured={recoloured} lie in [0, 1]."
            )
        self.shots, self.sources, self.queries = shots, sources, queries
        self.train_tasks, self.test_draws, self.recoloured = train_tasks, test_draws, recoloured

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Bytes to floats in [0, 1]; batches of ``predict`` get the shots and sources."""
        batch.pop("seed", None)
        for key, value in batch.items():
            if isinstance(value, Tensor) and value.dtype == torch.uint8:
                batch[key] = as_float(value)
        if "image" in batch:
            device = batch["image"].device
            batch["support_image"] = as_float(self.support.to(device))
            batch["source_image"] = as_float(self.predict_sources.to(device))
        return batch
