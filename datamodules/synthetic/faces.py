"""Pictures, region masks and landmarks of procedural faces, many at once.

Shapes are signed distances in pixels, squashed to a soft edge one pixel wide, and painted over one another. Nothing is
random here: the same parameters give the same picture, at any size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.synthetic.face_parameters import FaceParameters

__all__ = ["face_landmarks", "hair_mask", "render_faces"]

# In half axes of the face, from its centre.
_EYE = (0.42, -0.18)
_NOSE_TIP = 0.18
_MOUTH = (0.40, 0.56)
_MOUSTACHE_HEIGHT = 0.38
_LIP = (0.72, 0.22, 0.24)
_TEETH = (0.97, 0.96, 0.93)
_FRAME = (0.06, 0.06, 0.08)


def face_landmarks(faces: FaceParameters, size: int) -> Tensor:
    """Eyes, tip of the nose and corners of the mouth, left before right, in pixels from the top left corner.

    Args:
        faces: N faces.
        size: side of the picture.

    Returns:
        x and y, shape ``(N, 5, 2)``.
    """
    shape = torch.tensor(
        [[-_EYE[0], _EYE[1]], [_EYE[0], _EYE[1]], [0.0, _NOSE_TIP], [-_MOUTH[0], _MOUTH[1]], [_MOUTH[0], _MOUTH[1]]]
    )
    return (faces.centre[:, None] + shape * faces.size[:, None] + 1) * size / 2


def hair_mask(faces: FaceParameters, size: int) -> Tensor:
    """Share of each pixel that is hair of the head, in [0, 1], shape ``(N, 1, size, size)``."""
    return _Canvas(faces, size).hair()


def render_faces(faces: FaceParameters, size: int) -> Tensor:
    """Pictures of faces.

    Args:
        faces: N faces.
        size: side of the pictures.

    Returns:
        In [0, 1], shape ``(N, 3, size, size)``.
    """
    canvas = _Canvas(faces, size)
    canvas.paint_head()
    canvas.paint_eyes()
    canvas.paint_mouth()
    canvas.paint_moustache()
    canvas.paint_glasses()
    return canvas.picture.clamp(0, 1)


class _Canvas:
    """Pictures being painted; ``x`` and ``y``, ``(N, 1, S, S)``, are in half axes of each face from its centre."""

    def __init__(self, faces: FaceParameters, size: int) -> None:
        self.faces = faces
        axis = (torch.arange(size) + 0.5) * 2 / size - 1
        self.x = (axis[None, None, None, :] - _column(faces.centre[:, 0])) / _column(faces.size[:, 0])
        self.y = (axis[None, None, :, None] - _column(faces.centre[:, 1])) / _column(faces.size[:, 1])
        self.x, self.y = torch.broadcast_tensors(self.x, self.y)
        self.sharpness = 0.65 * size  # pixels in a half axis, of which an edge takes one, times two
        share = ((axis + 1) / 2)[None, None, :, None]
        top, bottom = (faces.background[:, index, :, None, None] for index in (0, 1))
        self.picture = (top + share * (bottom - top)).expand(-1, -1, size, size)

    def within(self, distance: Tensor) -> Tensor:
        """Share of a pixel inside a shape, from a signed distance that is negative inside, in half axes."""
        return torch.sigmoid(-2 * self.sharpness * distance)

    def ellipse(self, x: float, y: float, width: float, height: float) -> Tensor:
        """Share inside an ellipse given by its centre and half axes."""
        radius = (((self.x - x) / width).square() + ((self.y - y) / height).square() + 1e-8).sqrt()
        return self.within((radius - 1) * min(width, height))

    def paint(self, share: Tensor, colour: Tensor) -> None:
        """Lay a colour, ``(N, 3)`` or ``(N, 3, S, S)``, over the pictures where ``share`` is above 0."""
        colour = colour[..., None, None] if colour.ndim == 2 else colour
        self.picture = self.picture + share * (colour - self.picture)

    def hair(self) -> Tensor:
        """Share of hair of the head."""
        forehead = self.within(self.y + 1 - _column(self.faces.fringe))
        behind = self.ellipse(0, -0.18, 1.22, 1.05) * self.within(self.y - 0.45)
        return behind * (1 - self.ellipse(0, 0, 1, 1) * (1 - forehead))

    def paint_head(self) -> None:
        """Neck, face, its shading, nose and hair."""
        skin = self.faces.skin
        shade = 1 + _column(self.faces.light) * -self.x.clamp(-1.2, 1.2) - 0.06 * self.y.clamp(-1, 1)
        tone = (skin[..., None, None] * shade).clamp(0, 1)
        self.paint(self.within(self.x.abs() - 0.45) * self.within(0.5 - self.y), 0.85 * skin)
        self.paint(self.ellipse(0, 0, 1, 1), tone)
        self.paint(0.5 * self.ellipse(0, 0.08, 0.12, 0.16), 0.75 * skin)
        self.paint(self.hair(), self.faces.hair_colour)

    def paint_eyes(self) -> None:
        """Brows in the colour of the hair, white and iris."""
        count = len(self.faces)
        for side in (-1, 1):
            x, y = side * _EYE[0], _EYE[1]
            self.paint(0.8 * self.ellipse(x, y - 0.20, 0.22, 0.05), 0.7 * self.faces.hair_colour)
            self.paint(self.ellipse(x, y, 0.18, 0.10), torch.full((count, 3), 0.97))
            self.paint(self.ellipse(x, y, 0.08, 0.09), self.faces.eyes)

    def paint_mouth(self) -> None:
        """A curved band, with teeth above its lower edge where the face smiles."""
        width, thickness, curve = (_column(part) for part in self.faces.mouth.unbind(1))
        smile = _column(self.faces.smile)
        half = _MOUTH[0] * (0.8 + 0.35 * smile) * width
        reach = self.x / half
        centre = _MOUTH[1] + 0.10 * smile * curve * (1 - 2 * reach.square()) + 0.01
        open_by = (0.055 + 0.075 * smile) * thickness * (1 - 0.6 * reach.square()).clamp_min(0.05)
        inside = self.within(self.x.abs() - half)
        offset = self.y - centre
        lip = torch.tensor(_LIP) * (0.55 + 0.45 * self.faces.skin.mean(1, keepdim=True))
        self.paint(inside * self.within(offset.abs() - open_by), lip)
        teeth = torch.tensor(_TEETH).expand(len(self.faces), 3)
        self.paint(smile * self.within(self.x.abs() - 0.8 * half) * self.within(offset.abs() - 0.55 * open_by), teeth)

    def paint_moustache(self) -> None:
        """A band under the nose that hangs down at its ends, in a darker shade of the hair."""
        centre = _MOUSTACHE_HEIGHT + 0.25 * self.x.square()
        share = self.within((self.y - centre).abs() - 0.06) * self.within(self.x.abs() - 0.42)
        self.paint(_column(self.faces.moustache) * share, 0.75 * self.faces.hair_colour)

    def paint_glasses(self) -> None:
        """Two rings and a bridge."""
        rings = torch.stack(
            [
                self.ellipse(side * _EYE[0], _EYE[1], 0.33, 0.24) - self.ellipse(side * _EYE[0], _EYE[1], 0.25, 0.17)
                for side in (-1, 1)
            ]
        ).amax(0)
        bridge = self.within((self.y - _EYE[1]).abs() - 0.04) * self.within(self.x.abs() - 0.14)
        frame = torch.tensor(_FRAME).expand(len(self.faces), 3)
        self.paint(_column(self.faces.glasses) * torch.maximum(rings, bridge).clamp(0, 1), frame)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
