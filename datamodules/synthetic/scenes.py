"""Natural-looking procedural scenes and the camera that photographs them.

A scene is a "dead leaves" picture: shapes of power-law sizes occlude one another, each with its own colour,
1/f^alpha texture, shading and soft edge. Occlusion is what gives photographs their edges and their 1/f amplitude
spectrum, so a detector trained on these scenes meets the statistics it would meet outside.

Distances are in pixels, never in fractions of the canvas: a crop tells nothing about the size of the image it was
cut from. This module needs NumPy and SciPy only, so worker processes start fast.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

__all__ = ["Camera", "SceneClass", "power_law_texture", "render_scene"]

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_TEXTURE_SIDE = 256  # textures are periodic tiles of this side; shapes look at random offsets of them
_TEXTURES_PER_SCENE = 3
_RADII = (7.0, 80.0)  # pixels
_AREA_PER_SHAPE = 520.0  # square pixels for each shape drawn: enough that little of the first layer stays visible


@dataclass(frozen=True)
class SceneClass:
    """What the scenes of one class share, so that class labels mean something.

    Args:
        hue: centre of the palette, in [0, 1) around the colour circle.
        squareness: exponent of the super-ellipses; 2 draws ellipses, 8 nearly rectangles.
        elongation: largest ratio of the two axes of a shape.
        texture_slope: alpha of the textures' 1/f^alpha amplitude spectrum.
    """

    hue: float
    squareness: float
    elongation: float
    texture_slope: float

    @classmethod
    def of(cls, class_id: int) -> SceneClass:
        """The class with this number (any integer from 0); golden-ratio steps keep neighbours' hues apart."""
        return cls(
            hue=(0.07 + 0.61803 * class_id) % 1.0,
            squareness=(2.0, 2.6, 8.0)[class_id % 3],
            elongation=(1.4, 2.5, 4.0, 1.8)[class_id % 4],
            texture_slope=(0.9, 1.15, 1.0)[class_id // 3 % 3],
        )


@dataclass(frozen=True)
class Camera:
    """Sensor and tone curve: linear light to 8-bit pixels.

    Noise is drawn per pixel and colour channel, with variance ``read**2 + shot * light``: photon noise grows with
    the signal, read-out noise does not. Channels are independent and white balance amplifies red and blue, so
    full-resolution chroma is mostly noise, which a PNG keeps and a 4:2:0 JPEG discards.

    Args:
        shot: photon noise variance of green at full-scale light 1.
        read: read-out noise of green, standard deviation in units of full-scale light.
        gains: noise amplitudes of red, green and blue relative to green.
        gamma: exponent of the tone curve ``pixel = light ** (1 / gamma)``.
    """

    shot: float = 1e-3
    read: float = 2e-3
    gains: tuple[float, float, float] = (2.0, 1.0, 2.5)
    gamma: float = 2.2

    def shoot(self, light: FloatArray, rng: np.random.Generator) -> ByteArray:
        """Photograph linear light in [0, 1], shape ``(H, W, 3)``, as 8-bit RGB of the same shape."""
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        noise *= np.array(self.gains, dtype=np.float32)
        noise *= np.sqrt(self.shot * np.maximum(light, 0.0) + self.read**2, dtype=np.float32)
        exposed = np.clip(light + noise, 0.0, 1.0)
        return np.asarray(np.rint(255.0 * exposed ** np.float32(1.0 / self.gamma)), dtype=np.uint8)


def power_law_texture(slope: float, rng: np.random.Generator, side: int = _TEXTURE_SIDE) -> FloatArray:
    """A periodic Gaussian texture whose amplitude spectrum falls as ``1 / f ** slope``.

    Args:
        slope: alpha; 0 is white noise, 1 the value of photographs, 2 a cloud.
        rng: source of randomness.
        side: side of the square tile in pixels.

    Returns:
        Shape ``(side, side)``, zero mean, unit standard deviation, wraps around at its borders.
    """
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf  # no mean
    spectrum = fft.rfft2(rng.standard_normal((side, side), dtype=np.float32)) * frequency.astype(np.float32) ** -slope
    texture = fft.irfft2(spectrum, s=(side, side))
    return np.asarray(texture / texture.std(), dtype=np.float32)


def render_scene(height: int, width: int, scene_class: SceneClass, rng: np.random.Generator) -> FloatArray:
    """Render the light of one scene, before any sensor.

    Args:
        height: rows of the canvas.
        width: columns of the canvas.
        scene_class: palette, shapes and textures to draw with.
        rng: source of randomness; the same state gives the same scene.

    Returns:
        Linear light, shape ``(height, width, 3)``, in [0, 1].
    """
    textures = [
        power_law_texture(scene_class.texture_slope + rng.uniform(-0.1, 0.1), rng) for _ in range(_TEXTURES_PER_SCENE)
    ]
    canvas = _paint(_colour(scene_class, rng), _tile(textures[0], 0, 0, height, width), 0.3)
    # Centres fall beyond the canvas by the largest radius, so shapes are as dense at the border as inside, whatever
    # the size of the canvas.
    margin = _RADII[1]
    count = round((height + 2 * margin) * (width + 2 * margin) / _AREA_PER_SHAPE)
    radii, y = _draw_radii(count, rng), rng.uniform(-margin, height + margin, count)
    x = rng.uniform(-margin, width + margin, count)
    visible = (np.abs(y - height / 2) < height / 2 + radii) & (np.abs(x - width / 2) < width / 2 + radii)
    for radius, centre_y, centre_x in np.stack((radii, y, x), axis=1)[visible].tolist():
        _draw_shape(canvas, (centre_y, centre_x), radius, scene_class, textures, rng)
    return np.asarray(np.clip(canvas * _illumination(height, width, rng), 0.0, 1.0), dtype=np.float32)


def _draw_radii(count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Radii with density r^-2.5 between the bounds, by inversion; at r^-3 dead leaves look alike at any zoom."""
    low, high = _RADII[0] ** -1.5, _RADII[1] ** -1.5
    return np.asarray((low + rng.random(count) * (high - low)) ** (-1.0 / 1.5))


def _colour(scene_class: SceneClass, rng: np.random.Generator) -> FloatArray:
    """A linear RGB colour, shape ``(3,)``, near the class's hue or near its complement."""
    hue = scene_class.hue + rng.normal(0.0, 0.07) + (0.45 if rng.random() < 0.25 else 0.0)
    rgb = colorsys.hsv_to_rgb(hue % 1.0, float(rng.beta(1.8, 4.0)), float(rng.uniform(0.2, 0.9)))
    return np.asarray(rgb, dtype=np.float32) ** np.float32(2.2)


def _tile(texture: FloatArray, top: int, left: int, height: int, width: int) -> FloatArray:
    """Cut ``(height, width)`` from a periodic texture."""
    rows = np.arange(top, top + height) % texture.shape[0]
    columns = np.arange(left, left + width) % texture.shape[1]
    return np.asarray(texture[rows[:, None], columns[None, :]])


def _paint(colour: FloatArray, texture: FloatArray, contrast: float) -> FloatArray:
    """A textured surface ``(H, W, 3)``; the texture multiplies light, as reflectance does."""
    return np.asarray(np.exp(np.float32(contrast) * texture)[..., None] * colour, dtype=np.float32)


def _draw_shape(
    canvas: FloatArray,
    centre: tuple[float, float],
    radius: float,
    scene_class: SceneClass,
    textures: list[FloatArray],
    rng: np.random.Generator,
) -> None:
    """Draw one shaded, textured super-ellipse onto the canvas, in place, touching only its bounding box."""
    height, width = canvas.shape[:2]
    y, x = centre
    ratio, angle, light_angle = rng.uniform(1.0, scene_class.elongation), *rng.uniform(0.0, 2.0 * np.pi, 2)
    shading, contrast, softness = rng.uniform(0.0, 0.55), rng.uniform(0.05, 0.35), rng.uniform(0.8, 1.8)
    texture, offset = textures[rng.integers(len(textures))], rng.integers(_TEXTURE_SIDE, size=2)
    colour = _colour(scene_class, rng)

    reach = radius * np.sqrt(ratio) * 1.2 + 2.0
    top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
    if top >= bottom or left >= right:
        return
    rows = (np.arange(top, bottom, dtype=np.float32) - np.float32(y))[:, None]
    columns = (np.arange(left, right, dtype=np.float32) - np.float32(x))[None, :]
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    major = np.abs(cosine * columns + sine * rows) / np.float32(radius * np.sqrt(ratio))
    minor = np.abs(cosine * rows - sine * columns) / np.float32(radius / np.sqrt(ratio))
    power = np.float32(scene_class.squareness)
    distance = (major**power + minor**power) ** (1.0 / power)  # 1 on the outline
    # Over the minor axis one unit of `distance` is radius / sqrt(ratio) pixels, which fixes the edge's width.
    coverage = np.clip(0.5 + (1.0 - distance) * np.float32(radius / np.sqrt(ratio) / softness), 0.0, 1.0)[..., None]
    ramp = np.float32(np.cos(light_angle)) * columns + np.float32(np.sin(light_angle)) * rows
    surface = _paint(colour, _tile(texture, int(offset[0]), int(offset[1]), bottom - top, right - left), contrast)
    surface *= np.clip(1.0 + np.float32(shading / radius) * ramp, 0.15, 1.9)[..., None]
    region = canvas[top:bottom, left:right]
    region += coverage * (surface - region)


def _illumination(height: int, width: int, rng: np.random.Generator) -> FloatArray:
    """A slow gradient of light over the whole scene, shape ``(height, width, 1)``, around 1."""
    angle, depth = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, 0.35)
    rows = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    return np.asarray(1.0 + depth * (np.cos(angle) * columns + np.sin(angle) * rows), dtype=np.float32)[..., None]
