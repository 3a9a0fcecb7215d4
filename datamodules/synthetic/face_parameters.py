"""What a procedural face is made of: exactly known numbers, from which `faces` draws the picture.

Every attribute is a parameter of its own and independent of all others, so a face with one attribute changed and
everything else equal, a counterfactual, is a copy with one number changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["FACE_ATTRIBUTES", "HAIR_COLOURS", "HELD_OUT_HAIR_COLOURS", "FaceParameters", "draw_faces"]

HAIR_COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.08, 0.07, 0.07),
    "brown": (0.36, 0.22, 0.12),
    "blond": (0.88, 0.76, 0.42),
    "grey": (0.58, 0.58, 0.60),
    "ginger": (0.80, 0.38, 0.10),
    "blue": (0.15, 0.25, 0.80),
    "green": (0.15, 0.62, 0.22),
    "pink": (0.95, 0.55, 0.72),
    "red": (0.80, 0.06, 0.08),
    "purple": (0.48, 0.12, 0.62),
    "teal": (0.06, 0.58, 0.60),
    "white": (0.96, 0.96, 0.95),
}
HELD_OUT_HAIR_COLOURS = ("red", "purple", "teal", "white")
"""Colours that few-shot tasks keep for the test."""

FACE_ATTRIBUTES = ("smile", "moustache", "glasses")

_DARK_SKIN, _LIGHT_SKIN = (0.32, 0.20, 0.14), (0.98, 0.82, 0.71)
_HAIR_JITTER = 0.04


@dataclass(frozen=True)
class FaceParameters:
    """Parameters of N faces. Lengths are in half widths of the picture: it reaches from -1 to 1, downwards and right.

    Args:
        smile: 1 where the corners of the mouth point up and teeth show, 0 where the mouth is straight, ``(N,)``.
        moustache: 1 where there is one, ``(N,)``.
        glasses: 1 where there are some, ``(N,)``.
        hair: index into :data:`HAIR_COLOURS`, int64 ``(N,)``.
        hair_colour: RGB in [0, 1], ``(N, 3)``: the palette's, jittered.
        skin: RGB in [0, 1], ``(N, 3)``.
        background: RGB in [0, 1] of the top and of the bottom, ``(N, 2, 3)``.
        eyes: RGB of the iris, ``(N, 3)``.
        centre: of the face, x and y, ``(N, 2)``.
        size: half axes of the face, x and y, ``(N, 2)``.
        mouth: half width, thickness and curve of the mouth relative to the usual, ``(N, 3)``.
        fringe: how far the hair comes down, ``(N,)``.
        light: how much brighter the left side is than the right, ``(N,)``.
    """

    smile: Tensor
    moustache: Tensor
    glasses: Tensor
    hair: Tensor
    hair_colour: Tensor
    skin: Tensor
    background: Tensor
    eyes: Tensor
    centre: Tensor
    size: Tensor
    mouth: Tensor
    fringe: Tensor
    light: Tensor

    def __len__(self) -> int:
        return len(self.smile)

    def __getitem__(self, index: slice | Tensor) -> FaceParameters:
        """Some of the faces."""
        return FaceParameters(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def with_attributes(self, values: Mapping[str, Tensor]) -> FaceParameters:
        """The same faces with other attributes: their counterfactuals.

        Args:
            values: 0 or 1 under names of :data:`FACE_ATTRIBUTES`, each ``(N,)``.

        Raises:
            ValueError: if there is no such attribute.
        """
        unknown = values.keys() - set(FACE_ATTRIBUTES)
        if unknown:
            raise ValueError(f"Procedural faces have no {sorted(unknown)}; they have {', '.join(FACE_ATTRIBUTES)}.")
        return replace(self, **{name: value.to(self.smile) for name, value in values.items()})

    def with_hair(self, name: str) -> FaceParameters:
        """The same faces with hair of the palette's colour.

        Raises:
            ValueError: if there is no such colour.
        """
        if name not in HAIR_COLOURS:
            raise ValueError(f"There is no hair colour {name!r}; there are {', '.join(HAIR_COLOURS)}.")
        colour = torch.tensor(HAIR_COLOURS[name]).expand(len(self), 3)
        return replace(self, hair=torch.full_like(self.hair, list(HAIR_COLOURS).index(name)), hair_colour=colour)

    def attributes(self, names: tuple[str, ...] | list[str]) -> Tensor:
        """Values of some attributes, ``(N, len(names))``, 0 or 1."""
        return torch.stack([getattr(self, name) for name in names], dim=1)


def draw_faces(count: int, generator: torch.Generator, hair: tuple[str, ...] = tuple(HAIR_COLOURS)) -> FaceParameters:
    """Random faces; everything is independent of everything else.

    Args:
        count: how many.
        generator: source of randomness, on the CPU.
        hair: colours to draw from.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def coins(probability: float) -> Tensor:
        return (torch.rand(count, generator=generator) < probability).float()

    names = list(HAIR_COLOURS)
    chosen = torch.tensor([names.index(name) for name in hair])
    index = chosen[torch.randint(len(chosen), (count,), generator=generator)]
    jitter = _HAIR_JITTER * torch.randn(count, 3, generator=generator)
    dark, light = torch.tensor(_DARK_SKIN), torch.tensor(_LIGHT_SKIN)
    tone = uniform(0, 1, 1)
    return FaceParameters(
        smile=coins(0.5),
        moustache=coins(0.5),
        glasses=coins(0.4),
        hair=index,
        hair_colour=(torch.tensor(list(HAIR_COLOURS.values()))[index] + jitter).clamp(0, 1),
        skin=(dark + tone * (light - dark) + uniform(-0.03, 0.03, 3)).clamp(0, 1),
        background=uniform(0.1, 0.95, 2, 3),
        eyes=uniform(0.05, 0.55, 3),
        centre=uniform(-0.06, 0.06, 2) + torch.tensor([0.0, 0.08]),
        size=torch.cat([uniform(0.52, 0.62, 1), uniform(0.70, 0.80, 1)], dim=1),
        mouth=uniform(0.85, 1.15, 3),
        fringe=uniform(0.30, 0.50),
        light=uniform(-0.12, 0.12),
    )
