"""One number per frequency: the radial (azimuthal) log-spectrum of images (Durall et al. 2019, Sec. 3).

With its defaults :func:`radial_log_spectrum` follows the published definition to the last step, its oddities included:
a centre half a pixel off the zero frequency, the logarithm of the amplitude before the mean, rings that reach into the
corners, the first and the last ring dropped. The options are the sound variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

__all__ = [
    "Axis",
    "RadialSpectrum",
    "Window",
    "central_third",
    "luma",
    "radial_log_spectrum",
    "spectrum_frequencies",
    "spectrum_length",
]

Axis = Literal["rings", "cycles"]
Window = Literal["none", "hann"]

EPSILON = 1e-8
DEFAULT_BINS = 80
# Pixels worked on at a time: one image of 256 x 256 stays in a core's cache; a GPU is filled.
_CHUNK_CPU = 1 << 16
_CHUNK_GPU = 1 << 26


def radial_log_spectrum(
    gray: Tensor,
    features: int | None = None,
    relative: bool = False,
    *,
    axis: Axis = "rings",
    window: Window = "none",
    power: bool = False,
    disc_only: bool = False,
    high_pass: bool = False,
) -> Tensor:
    """Mean of ``20 ln |F|`` over rings of equal frequency, from low to high.

    Args:
        gray: luma, shape ``(..., H, W)``, in [0, 255] (see :func:`luma`); further leading axes, such as a channel,
            are kept. float64 is worked on in float64, all else in float32.
        features: length of the result. On the axis ``rings`` the rings are resampled to it by a cubic spline, by
            default they stay; on ``cycles`` it is the number of bins, 80 by default.
        relative: divide by the first value (published); on the axis ``cycles`` subtract it, since values there may
            cross zero.
        axis: ``rings`` of one pixel around ((W-1)/2, (H-1)/2), so that a feature's frequency depends on the size; or
            ``cycles``: equal bins of cycles per pixel around the true zero frequency, with power per pixel, so that
            sizes (and aspects) are comparable. Bins without a frequency of their own are filled in linearly.
        window: ``hann`` tapers the borders after the mean is removed, which takes away the cross that borders leave.
        power: logarithm of the mean power instead of the mean logarithm of the amplitude, in the same unit.
        disc_only: leave out the corners beyond the Nyquist frequency, 0.5 cycles per pixel.
        high_pass: spectrum of the difference to the mean of 3 x 3 neighbours (reflected borders).

    Returns:
        Log-spectrum in units of ``20 ln``, shape ``(..., K)`` with K as in :func:`spectrum_length`: 88 for 128 x 128
        pixels, 139 for 178 x 218, 722 for 1024 x 1024 with the defaults.

    Raises:
        ValueError: if the images have a side below 4 pixels, or ``features`` is below 2.

    Source: Durall et al. 2019, Sec. 3.1; the options ``window``, ``power``, ``disc_only``, ``axis`` are ours.

    Example:
        >>> radial_log_spectrum(torch.rand(2, 128, 128) * 255, features=80, relative=True).shape
        torch.Size([2, 80])
    """
    if gray.ndim < 2:
        raise ValueError(f"Need images of shape (..., H, W), got {tuple(gray.shape)}.")
    height, width = gray.shape[-2:]
    if gray.dtype != torch.float64:
        gray = gray.float()
    rings = _rings_on(height, width, features, axis, disc_only, str(gray.device))
    taper = _taper(height, width, gray) if window == "hann" else None
    flat = gray.reshape(-1, height, width)
    chunk = max(1, (_CHUNK_CPU if gray.device.type == "cpu" else _CHUNK_GPU) // (height * width))
    scale = 1.0 / (height * width) if axis == "cycles" else 1.0
    parts = [
        _sums_of_pairs(_prepared(part, taper, high_pass), rings, power, scale)
        for part in flat.split(chunk)
        if len(part)
    ]
    sums = torch.cat(parts) if parts else gray.new_zeros(0, rings.mean.shape[0])
    with torch.autocast(gray.device.type, enabled=False):
        spectrum = sums.to(rings.mean.dtype) @ rings.mean
        if power:
            spectrum = 10 * torch.log(spectrum.clamp_min(EPSILON**2))
        if rings.resample is not None:
            spectrum = spectrum @ rings.resample
    if relative:
        first = spectrum[:, :1]
        spectrum = spectrum / first if axis == "rings" else spectrum - first
    return spectrum.to(gray.dtype).reshape(*gray.shape[:-2], spectrum.shape[-1])


@dataclass(frozen=True)
class RadialSpectrum:
    """The settings of a spectrum as one object, for images and for luma planes.

    Args:
        features: number of values per channel; by default that of the rings, which depends on the image's size.
        relative: divide by the first value (on the axis ``cycles``: subtract it).
        axis: ``rings`` of one pixel (published), or ``cycles`` per pixel, comparable across image sizes.
        window: ``hann`` tapers the borders.
        power: logarithm of the mean power instead of the mean logarithm of the amplitude.
        disc_only: leave out frequencies beyond 0.5 cycles per pixel.
        high_pass: spectrum of the difference to the mean of 3 x 3 neighbours.
        colour: one spectrum of the ``luma``, or one of each ``rgb`` channel, one after the other.
        central_third: cut off the outer third of the image on each side (the paper's DeepFakeDetection frames).
    """

    features: int | None = None
    relative: bool = False
    axis: Axis = "rings"
    window: Window = "none"
    power: bool = False
    disc_only: bool = False
    high_pass: bool = False
    colour: Literal["luma", "rgb"] = "luma"
    central_third: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Spectra ``(B, K)`` in float64 (float32 where the device has no float64) of RGB images in [0, 1]."""
        precise = torch.float32 if images.device.type == "mps" else torch.float64
        if self.colour == "rgb":
            return self.of_plane(images.to(precise) * 255).flatten(1)
        return self.of_plane(luma(images).to(precise))

    def of_plane(self, plane: Tensor) -> Tensor:
        """Spectra ``(..., K)`` of luma or colour planes in [0, 255], shape ``(..., H, W)``."""
        return radial_log_spectrum(
            central_third(plane) if self.central_third else plane,
            self.features,
            self.relative,
            axis=self.axis,
            window=self.window,
            power=self.power,
            disc_only=self.disc_only,
            high_pass=self.high_pass,
        )

    def frequencies(self, height: int, width: int) -> NDArray[np.float64]:
        """Frequency of each value of one channel in cycles per pixel, of images of this size, shape ``(K,)``."""
        if self.central_third:
            height, width = height - 2 * (height // 3), width - 2 * (width // 3)
        return spectrum_frequencies(height, width, self.features, axis=self.axis, disc_only=self.disc_only)


def spectrum_length(
    height: int, width: int, features: int | None = None, *, axis: Axis = "rings", disc_only: bool = False
) -> int:
    """Length of the spectrum of an image, with the arguments of :func:`radial_log_spectrum`."""
    return len(spectrum_frequencies(height, width, features, axis=axis, disc_only=disc_only))


def spectrum_frequencies(
    height: int, width: int, features: int | None = None, *, axis: Axis = "rings", disc_only: bool = False
) -> NDArray[np.float64]:
    """Mean frequency of each value of a spectrum, in cycles per pixel, with the arguments of the spectrum.

    Returns:
        Shape ``(K,)``. Beyond 0.5 there are only the corners of the plane.
    """
    return _rings(height, width, features, axis, disc_only).frequencies


def luma(images: Tensor) -> Tensor:
    """Luma of RGB images in 8 bits, with the fixed-point arithmetic of libjpeg and Pillow.

    It equals the luma of an 8-bit RGB image. A JPEG file's own luma plane is another: decoding to RGB and back
    rounds twice, which moves features by about 5e-3 (published features are those of the plane itself).

    Args:
        images: RGB in [0, 1], shape ``(..., 3, H, W)``; rounded to 8 bits first.

    Returns:
        Whole numbers in [0, 255], shape ``(..., H, W)``, of the type of ``images``.

    Raises:
        ValueError: if there are no three channels.
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"Need RGB images of shape (..., 3, H, W), got {tuple(images.shape)}.")
    red, green, blue = (images.float() * 255).round().int().unbind(dim=-3)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(images.dtype)


def central_third(gray: Tensor) -> Tensor:
    """Images ``(..., H, W)`` without the outer third on each side, as DeepFakeDetection's frames are cut."""
    height, width = gray.shape[-2:]
    return gray[..., height // 3 : height - height // 3, width // 3 : width - width // 3]


class _Rings(NamedTuple):
    """How the half plane of ``rfft2`` becomes rings.

    A real image has equal amplitudes at k and -k, but the published centre puts the two into different rings. So each
    frequency of the half plane is added to a pair of rings, and the few pairs are then shared out by a small matrix.
    """

    pair: NDArray[np.int64]  # pair of each frequency, (H * (W // 2 + 1),)
    mean: NDArray[np.float64]  # from sums over pairs to means over rings, (pairs, rings)
    resample: NDArray[np.float64] | None  # from rings to features
    frequencies: NDArray[np.float64]  # of each feature


class _RingTensors(NamedTuple):
    """The same on a device."""

    pair: Tensor
    mean: Tensor
    resample: Tensor | None


@lru_cache(maxsize=32)
def _rings(height: int, width: int, features: int | None, axis: str, disc_only: bool) -> _Rings:
    if min(height, width) < 4:
        raise ValueError(f"Images of {height} x {width} pixels have no spectrum to speak of; need sides of at least 4.")
    if features is not None and features < 2:
        raise ValueError(f"features={features}: a spectrum has at least 2 values.")
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    if axis == "rings":
        ring, resample = _pixel_rings(height, width, disc_only), None
        count = int(ring.max()) + 1
        kept = ring >= 0
        frequencies = np.bincount(ring[kept], frequency[kept], count) / np.bincount(ring[kept], minlength=count)
        if features is not None:
            resample = _spline(count, features)
            frequencies = frequencies @ resample
    elif axis == "cycles":
        bins, highest = features or DEFAULT_BINS, 0.5 if disc_only else np.sqrt(0.5)
        ring, resample = _frequency_bins(frequency, bins, highest)
        count = int(ring.max()) + 1
        frequencies = (np.arange(bins) + 0.5) / bins * highest
    else:
        raise ValueError(f"axis={axis!r} is not one of rings, cycles.")
    pair, mean = _pairs(ring, count)
    return _Rings(pair, mean, resample, frequencies)


def _pixel_rings(height: int, width: int, disc_only: bool) -> NDArray[np.int64]:
    """Published rings of each frequency, in the order of ``fft2``, from 0; -1 for those left out."""
    radius = np.hypot(np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2)
    ring = np.fft.ifftshift(radius.astype(np.int64))
    last = min(height, width) // 2 if disc_only else ring.max()  # the outermost ring is left out
    return np.where((ring > 0) & (ring < last), ring - 1, -1)


def _frequency_bins(
    frequency: NDArray[np.float64], bins: int, highest: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Occupied bin of each frequency, numbered from 0, -1 for those left out; and the matrix that fills empty bins."""
    number = np.ceil(frequency / highest * bins - 1e-9).astype(np.int64) - 1  # bins are open below, closed above
    number[number >= bins] = -1
    number[0, 0] = -1
    occupied, ring = np.unique(number, return_inverse=True)
    ring = ring.reshape(number.shape)
    if occupied[0] == -1:
        occupied, ring = occupied[1:], ring - 1
    fill = np.stack([np.interp(np.arange(bins), occupied, row) for row in np.eye(len(occupied))])
    return ring, fill


def _spline(count: int, features: int) -> NDArray[np.float64]:
    """Matrix of the cubic (not-a-knot) resampling from ``count`` rings to ``features`` values, end to end."""
    if count < 4:
        raise ValueError(f"{count} rings are too few to be resampled to {features} features; use larger images.")
    knots = np.linspace(0, features, count)
    return CubicSpline(knots, np.eye(count))(np.linspace(0, features, features)).T


def _pairs(ring: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pair of rings that each frequency of the half plane belongs to, and the matrix from pairs to ring means."""
    width = ring.shape[1]
    mirrored = np.roll(ring[::-1, ::-1], 1, axis=(0, 1))  # the ring of -k at the place of k
    own, other = ring[:, : width // 2 + 1], mirrored[:, : width // 2 + 1].copy()
    other[:, 0] = -1  # the half plane holds both halves of the first column, and of the last if the width is even
    if width % 2 == 0:
        other[:, -1] = -1
    codes, pair = np.unique((own + 1) * (count + 1) + other + 1, return_inverse=True)
    sizes = np.bincount(ring[ring >= 0], minlength=count)
    mean = np.zeros((len(codes), count))
    for rings in np.divmod(codes, count + 1):
        rows = np.flatnonzero(rings > 0)
        mean[rows, rings[rows] - 1] += 1 / sizes[rings[rows] - 1]
    return pair.reshape(-1), mean


@torch.compiler.disable
@lru_cache(maxsize=32)
def _rings_on(height: int, width: int, features: int | None, axis: str, disc_only: bool, device: str) -> _RingTensors:
    rings = _rings(height, width, features, axis, disc_only)
    # float64 even for float32 images: it costs next to nothing, and a GPU's TF32 would round sums to three digits.
    dtype = torch.float32 if device.startswith("mps") else torch.float64
    with torch.inference_mode(False):  # what is cached serves training too
        return _RingTensors(
            torch.from_numpy(rings.pair).to(device),
            torch.from_numpy(rings.mean).to(device, dtype),
            None if rings.resample is None else torch.from_numpy(rings.resample).to(device, dtype),
        )


def _taper(height: int, width: int, like: Tensor) -> Tensor:
    """Hann window of unit mean square, ``(H, W)``."""
    rows, columns = (torch.hann_window(size, dtype=like.dtype, device=like.device) for size in (height, width))
    window = rows[:, None] * columns
    return window / window.square().mean().sqrt()


def _prepared(gray: Tensor, taper: Tensor | None, high_pass: bool) -> Tensor:
    """Residual and taper, where asked for, of images ``(B, H, W)``."""
    if high_pass:
        padded = F.pad(gray.unsqueeze(1), (1, 1, 1, 1), mode="reflect")
        gray = gray - F.avg_pool2d(padded, 3, stride=1).squeeze(1)
    if taper is not None:  # which would spread the mean over the lowest rings
        gray = (gray - gray.mean(dim=(-2, -1), keepdim=True)) * taper
    return gray


def _sums_of_pairs(gray: Tensor, rings: _RingTensors, power: bool, scale: float) -> Tensor:
    """Sums of ``20 ln |F|`` (or of the power) over pairs of rings, ``(B, pairs)``, of images ``(B, H, W)``."""
    transform = torch.fft.rfft2(gray)
    squares = (transform.real + EPSILON).square() + transform.imag.square()
    if scale != 1:
        squares = squares * scale
    values = squares if power else 10 * torch.log(squares)
    sums = values.new_zeros(len(gray), rings.mean.shape[0])
    return sums.index_add_(1, rings.pair, values.flatten(1))
