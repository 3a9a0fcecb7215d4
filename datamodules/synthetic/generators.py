"""Procedural "generators": the scenes of `scenes`, rendered at half resolution and up-sampled by known chains.

Image generators end in learned up-sampling layers, and those leave traces: copies of the low frequencies around the
Nyquist frequency (nearest, bilinear), a period-2 checkerboard (transposed convolution, pixel shuffle) or an empty
high band (sinc). Each generator here has one of these traces at a chosen strength and nothing else: scene statistics
and sensor noise (added after the up-sampling) are those of the natures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from datamodules.synthetic.scenes import ByteArray, Camera, FloatArray, SceneClass, render_scene

__all__ = [
    "GENERATORS",
    "Generator",
    "downsample",
    "upsample_bilinear",
    "upsample_nearest",
    "upsample_pixel_shuffle",
    "upsample_sinc",
    "upsample_transposed",
]

# Row and column weights of the transposed convolution (kernel 3, stride 2). Even outputs receive one tap of .93, odd
# ones two of .5: the overlap is uneven, as it is in every 3-tap stride-2 layer that has not learned otherwise.
_TRANSPOSED_KERNEL = np.array([0.5, 0.93, 0.5], dtype=np.float32)

# One 3x3 kernel for each of the four sub-pixels of a pixel shuffle, shape (2, 2, 3, 3): quarter-pixel bilinear
# interpolation towards the sub-pixel's position, with the slightly unequal gains of independently learned channels.
_QUARTER = np.array([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]], dtype=np.float32)
_SHUFFLE_GAINS = np.array([[1.03, 0.98], [0.96, 1.03]], dtype=np.float32)
_SHUFFLE_KERNELS = np.einsum("ai,bj,ab->abij", _QUARTER, _QUARTER, _SHUFFLE_GAINS)


def downsample(light: FloatArray) -> FloatArray:
    """Mean of each 2x2 block: what a sensor (or renderer) of half the resolution sees.

    Args:
        light: shape ``(H, W, 3)`` with even H and W.

    Returns:
        Shape ``(H / 2, W / 2, 3)``.
    """
    height, width, channels = light.shape
    blocks = light.reshape(height // 2, 2, width // 2, 2, channels)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def upsample_nearest(low: FloatArray) -> FloatArray:
    """Repeat each pixel 2x2. ``(h, w, 3)`` to ``(2h, 2w, 3)``; nothing is left exactly at the Nyquist frequency."""
    return low.repeat(2, axis=0).repeat(2, axis=1)


def upsample_bilinear(low: FloatArray) -> FloatArray:
    """Interpolate linearly between pixel centres (``align_corners=False``). ``(h, w, 3)`` to ``(2h, 2w, 3)``."""
    for axis in (0, 1):
        low = _interleave([_blend(low, shift, axis) for shift in (1, -1)], axis)
    return low


def upsample_transposed(low: FloatArray) -> FloatArray:
    """Transposed convolution, kernel 3, stride 2, uneven overlap. ``(h, w, 3)`` to ``(2h, 2w, 3)``.

    A flat input comes out as a checkerboard: lines at both axes' Nyquist frequencies, whatever the scene shows.
    """
    side, middle, _ = (float(weight) for weight in _TRANSPOSED_KERNEL)
    for axis in (0, 1):
        following = np.concatenate((low.take(range(1, low.shape[axis]), axis), low.take([-1], axis)), axis)
        low = _interleave([middle * low, side * (low + following)], axis)
    return low


def upsample_pixel_shuffle(low: FloatArray) -> FloatArray:
    """Sub-pixel convolution: four 3x3 filters, one for each output phase. ``(h, w, 3)`` to ``(2h, 2w, 3)``."""
    out = np.empty((2 * low.shape[0], 2 * low.shape[1], low.shape[2]), dtype=np.float32)
    for row in (0, 1):
        for column in (0, 1):
            kernel = _SHUFFLE_KERNELS[row, column][..., None]
            out[row::2, column::2] = ndimage.correlate(low, kernel, mode="nearest")
    return out


def upsample_sinc(low: FloatArray) -> FloatArray:
    """Band-limited interpolation by zero-padding the cosine spectrum. ``(h, w, 3)`` to ``(2h, 2w, 3)``.

    Nothing is left above half the Nyquist frequency.
    """
    height, width, channels = low.shape
    spectrum = np.zeros((2 * height, 2 * width, channels), dtype=np.float32)
    spectrum[:height, :width] = 2.0 * fft.dctn(low, axes=(0, 1), norm="ortho")
    return np.asarray(fft.idctn(spectrum, axes=(0, 1), norm="ortho", overwrite_x=True), dtype=np.float32)


def _blend(low: FloatArray, shift: int, axis: int) -> FloatArray:
    """Three quarters of each pixel and a quarter of its neighbour on one side, edges repeated."""
    size = low.shape[axis]
    neighbour = low.take(np.clip(np.arange(size) - shift, 0, size - 1), axis)
    return np.asarray(np.float32(0.75) * low + np.float32(0.25) * neighbour, dtype=np.float32)


def _interleave(phases: list[FloatArray], axis: int) -> FloatArray:
    """Weave two arrays along an axis: even positions from the first, odd ones from the second."""
    shape = list(phases[0].shape)
    shape[axis] *= 2
    return np.stack(phases, axis=axis + 1).reshape(shape)


@dataclass(frozen=True)
class Generator:
    """One procedural generator: where it works (size) and what trace it leaves (chain and strength).

    Args:
        name: folder name in the GenImage tree.
        size: side of its square images in pixels, even.
        upsample: chain from ``(size / 2, size / 2, 3)`` to ``(size, size, 3)``.
        strength: share of the up-sampling residual that reaches the picture: 0 is a nature, 1 the bare chain.
    """

    name: str
    size: int
    upsample: Callable[[FloatArray], FloatArray]
    strength: float

    @property
    def size_window(self) -> tuple[int, int]:
        """Bounds (inclusive) on both sides of natures that count as this generator's size, as 110-146 for 128."""
        return round(0.86 * self.size), round(1.14 * self.size)

    def trace(self, light: FloatArray) -> FloatArray:
        """Put the generator's trace into a scene rendered at full resolution, shape ``(H, W, 3)``, kept in shape."""
        residual = self.upsample(downsample(light)) - light
        return np.asarray(light + np.float32(self.strength) * residual, dtype=np.float32)

    def generate(self, scene_class: SceneClass, camera: Camera, rng: np.random.Generator) -> ByteArray:
        """Make one fake, 8-bit RGB of shape ``(size, size, 3)``."""
        return camera.shoot(self.trace(render_scene(self.size, self.size, scene_class, rng)), rng)


# Native sizes differ, as in GenImage. Strengths are the tuned part of this world: weak enough that a detector trained
# on PNG fakes against JPEG natures looks at the codec, strong enough to be learned once both are JPEG 96.
GENERATORS: dict[str, Generator] = {
    generator.name: generator
    for generator in (
        Generator("nearest", 128, upsample_nearest, 0.75),
        Generator("pixel_shuffle", 160, upsample_pixel_shuffle, 0.65),
        Generator("bilinear", 192, upsample_bilinear, 0.65),
        Generator("transposed", 224, upsample_transposed, 0.6),
        Generator("sinc", 256, upsample_sinc, 0.8),
    )
}
