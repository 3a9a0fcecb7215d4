"""JPEG encoding and decoding as libjpeg's default integer path does it, without the lossless entropy coding.

Every stage of libjpeg's "islow" path is a linear map with integer coefficients followed by a rounding shift. Here each
is a multiplication by dyadic fractions and a floor, in floating point wide enough to hold every intermediate result
exactly: float32 (24 bits) for colours and chroma resampling, float64 for the DCT, whose second pass needs 29 bits and
whose products must not be touched by TF32 or autocast. Exactness therefore rests on no rounding mode, no order of
summation and no fused multiply-add, and holds on every device.

Planes are centred: sample values minus 128, in [-128, 127].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["SAMPLING_FACTORS", "code_gray", "code_rgb", "smooth_rgb"]

SAMPLING_FACTORS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Rows and columns of luma per chroma sample."""

# jfdctint.c and jidctint.c: the sums of their 13-bit constants that reach the first four samples of each basis
# function. Rounding made the sums unequal where the cosines are equal (2259, 2260, 2261). Even functions are
# symmetric, odd ones antisymmetric; the inverse uses the transpose.
_BASIS = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
_COSINES = np.hstack((_BASIS, np.array(_BASIS)[:, ::-1] * np.resize((1.0, -1.0), (8, 1))))
# Rows then columns when encoding, columns then rows when decoding. The first pass of each keeps two bits behind the
# point (PASS1_BITS), the second drops them; the last also divides by eight.
_PASSES = np.stack((_COSINES.T / 2**11, _COSINES / 2**15, _COSINES.T / 2**11, _COSINES / 2**18))
_CENTRE = 128
_FIXED = 1 << 16  # scale of jccolor.c and jdcolor.c


def _fixed(value: float) -> float:
    """A colour coefficient rounded to 16 bits behind the point."""
    return int(value * _FIXED + 0.5) / _FIXED


def code_rgb(pixels: Tensor, tables: Tensor, subsampling: str, sizes: Tensor | None = None) -> Tensor:
    """Encode and decode colour images.

    Args:
        pixels: red, green and blue as whole numbers in [0, 255], float32, shape `(B, 3, H, W)`.
        tables: quantisation steps of luma and chroma, float64, shape `(B, 2, 8, 8)` or `(1, 2, 8, 8)`.
        subsampling: a key of `SAMPLING_FACTORS`.
        sizes: true height and width of each image where the batch is padded, int64 on the same device, `(B, 2)`;
            where chroma is subsampled they are wide enough to be interpolated (see :func:`_is_box`).

    Returns:
        Decoded pixels in [0, 255] before the last truncation to whole numbers (towards zero), float32,
        shape `(B, 3, H, W)`.
    """
    height, width = pixels.shape[-2:]
    rows, columns = SAMPLING_FACTORS[subsampling]
    # libjpeg replicates the right edge up to whole blocks of chroma before it averages; below the image only up to
    # a whole row of chroma, and the rows below that are copies of the averages.
    if sizes is not None:
        pixels = _repeat_edges(pixels, sizes)
        scale = sizes.new_tensor((rows, columns))
        small_sizes = (sizes + scale - 1) // scale
    luma, chroma = _to_ycc(_replicate(pixels, _whole(height, rows), _whole(width, 8 * columns)))
    small = _shrink(chroma, rows, columns)
    if sizes is not None:
        small = _repeat_edges(small, small_sizes, axes=(-2,))
    luma = _code_planes(_replicate(luma, _whole(height, 8), luma.shape[-1]), tables[:, :1])
    small = _code_planes(_replicate(small, _whole(small.shape[-2], 8), small.shape[-1]), tables[:, 1:])
    small = small[..., : -(-height // rows), : -(-width // columns)]
    if sizes is not None:
        small = _repeat_edges(small, small_sizes)
    return _to_rgb(luma[..., :height, :width], _enlarge(small, rows, columns)[..., :height, :width])


def code_gray(pixels: Tensor, tables: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Encode and decode images of one channel, `(B, 1, H, W)`; otherwise as :func:`code_rgb`."""
    height, width = pixels.shape[-2:]
    if sizes is not None:
        pixels = _repeat_edges(pixels, sizes)
    plane = _replicate(pixels, _whole(height, 8), _whole(width, 8)) - _CENTRE
    return _code_planes(plane, tables[:, :1])[..., :height, :width] + _CENTRE


def smooth_rgb(pixels: Tensor, subsampling: str) -> Tensor:
    """The codec in real numbers: what is left of it when every rounding is the identity.

    Quantisation and the DCT cancel then; luma passes unchanged, chroma is averaged and interpolated.

    Args:
        pixels: any real numbers, shape `(B, 3, H, W)`, of a floating dtype.
        subsampling: a key of `SAMPLING_FACTORS`.

    Returns:
        Decoded pixels on the scale of the input, not clamped, shape `(B, 3, H, W)`.
    """
    height, width = pixels.shape[-2:]
    rows, columns = SAMPLING_FACTORS[subsampling]
    red, green, blue = _replicate(pixels, _whole(height, rows), _whole(width, columns)).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack(((blue - luma) / 1.772, (red - luma) / 1.402), 1)
    chroma = chroma.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows)).mean((-3, -1))
    box = _is_box(chroma.shape[-1], columns)
    for axis, factor in ((-2, rows), (-1, columns)):
        if factor == 2 and box:
            chroma = chroma.repeat_interleave(2, axis)
        elif factor == 2:
            chroma = _triangle(chroma, axis)
    luma, (blueness, redness) = luma[:, :height, :width], chroma[..., :height, :width].unbind(1)
    red, blue = luma + 1.402 * redness, luma + 1.772 * blueness
    return torch.stack((red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue), 1)


def _triangle(planes: Tensor, axis: int) -> Tensor:
    """Twice the samples along `axis`, three quarters of the nearer plus one of the farther neighbour."""
    size = planes.shape[axis]
    first, last = planes.narrow(axis, 0, 1), planes.narrow(axis, size - 1, 1)
    before = torch.cat((first, planes.narrow(axis, 0, size - 1)), axis)
    after = torch.cat((planes.narrow(axis, 1, size - 1), last), axis)
    pairs = torch.stack((0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after), planes.ndim + axis + 1)
    return pairs.flatten(planes.ndim + axis, planes.ndim + axis + 1)


def _whole(size: int, unit: int) -> int:
    """The least multiple of `unit` that holds `size`."""
    return -(-size // unit) * unit


def _replicate(planes: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last column and the last row up to the given size."""
    right, below = width - planes.shape[-1], height - planes.shape[-2]
    if right:
        planes = torch.cat((planes, planes[..., -1:].expand(*planes.shape[:-1], right)), -1)
    if below:
        planes = torch.cat((planes, planes[..., -1:, :].expand(*planes.shape[:-2], below, width)), -2)
    return planes


def _repeat_edges(planes: Tensor, sizes: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Overwrite what lies beyond each image's true size, `(B, 2)`, by its last row and column."""
    for axis in axes:
        ends = sizes[:, axis, None] - 1  # (B, 1)
        index = torch.minimum(torch.arange(planes.shape[axis], device=planes.device), ends)
        planes = planes.gather(axis, index[:, None, :, None].transpose(-2, axis).expand_as(planes))
    return planes


def _to_ycc(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Centred luma `(B, 1, H, W)` and chroma `(B, 2, H, W)` of RGB, rounded as jccolor.c does."""
    red, green, blue = pixels.unbind(1)
    planes = pixels.new_empty(pixels.shape)
    luma_half, chroma_half = pixels.new_tensor([0.5 - _CENTRE, 0.5 - 1 / _FIXED]).unbind()
    for plane, half, weights in (
        (planes[:, 0], luma_half, (_fixed(0.299), _fixed(0.587), _fixed(0.114))),
        (planes[:, 1], chroma_half, (-_fixed(0.16874), -_fixed(0.33126), 0.5)),
        (planes[:, 2], chroma_half, (0.5, -_fixed(0.41869), -_fixed(0.08131))),
    ):
        torch.add(half, red, alpha=weights[0], out=plane)
        plane.add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])
    planes.floor_()
    return planes[:, :1], planes[:, 1:]


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """RGB in [0, 255], not yet truncated, of centred luma and chroma, as jdcolor.c rounds it.

    Sums beyond 256 are not exact in float32, but those are cut to 255 anyway.
    """
    luma = luma[:, 0] + (_CENTRE + 0.5)
    blueness, redness = chroma.unbind(1)
    pixels = luma.new_empty((len(luma), 3, *luma.shape[1:]))
    torch.add(luma, redness, alpha=_fixed(1.402), out=pixels[:, 0])
    green = torch.mul(blueness, -_fixed(0.34414), out=pixels[:, 1])
    green.add_(redness, alpha=-_fixed(0.71414)).add_(luma)
    torch.add(luma, blueness, alpha=_fixed(1.772), out=pixels[:, 2])
    return pixels.clamp_(0, 255)


def _shrink(chroma: Tensor, rows: int, columns: int) -> Tensor:
    """Averages of chroma as jcsample.c takes them: what is added before the shift alternates from column to column."""
    if columns == 1:
        return chroma
    if rows == 2:
        chroma = chroma[..., 0::2, :] + chroma[..., 1::2, :]
    small = chroma[..., 0::2] + chroma[..., 1::2]
    biases = small.new_tensor((1.0, 2.0) if rows == 2 else (0.0, 1.0)).expand(small.shape[-1] // 2, 2)
    return small.add_(biases.reshape(-1)).mul_(1 / (rows * columns)).floor_()


def _is_box(width: int, columns: int) -> bool:
    """Whether jdsample.c repeats chroma samples: it interpolates only where there are more than two in a row."""
    return columns == 2 and width <= 2


def _enlarge(chroma: Tensor, rows: int, columns: int) -> Tensor:
    """Chroma at the size of luma, interpolated as jdsample.c does ("fancy" up-sampling).

    A sum of quarters (sixteenths) plus a half is rounded down for one column of a pair. In the other libjpeg adds one
    unit less: the whole number below that sum, which is one less than the whole number above it.
    """
    if columns == 1:
        return chroma
    if _is_box(chroma.shape[-1], columns):
        return chroma.repeat_interleave(2, -1).repeat_interleave(rows, -2)
    sums = (chroma + 0.5) * (1 / 16 if rows == 2 else 1 / 4)
    if rows == 2:
        sums = _weigh_rows(sums)
    wide = sums.new_empty((*sums.shape[:-1], 2 * sums.shape[-1]))
    left, right = torch.mul(sums, 3), torch.mul(sums, 3)
    left[..., 1:].add_(sums[..., :-1])
    left[..., 0].add_(sums[..., 0])
    right[..., :-1].add_(sums[..., 1:])
    right[..., -1].add_(sums[..., -1])
    upward, downward = ((right, 1), (left, 0)) if rows == 2 else ((left, 0), (right, 1))
    torch.sub(upward[0].ceil_(), 1, out=wide[..., upward[1] :: 2])
    torch.floor(downward[0], out=wide[..., downward[1] :: 2])
    return wide


def _weigh_rows(planes: Tensor) -> Tensor:
    """Three times each row plus the row above, and three times each row plus the row below, in turn."""
    height, width = planes.shape[-2:]
    sums = planes.new_empty((*planes.shape[:-2], height, 2, width))
    torch.add(planes[..., :-1, :], planes[..., 1:, :], alpha=3, out=sums[..., 1:, 0, :])
    torch.add(planes[..., 1:, :], planes[..., :-1, :], alpha=3, out=sums[..., :-1, 1, :])
    torch.mul(planes[..., 0, :], 4, out=sums[..., 0, 0, :])
    torch.mul(planes[..., -1, :], 4, out=sums[..., -1, 1, :])
    return sums.flatten(-3, -2)


def _code_planes(planes: Tensor, table: Tensor) -> Tensor:
    """Transform, quantise and transform back whole blocks of centred samples.

    Args:
        planes: whole numbers, float32, shape `(B, C, H, W)`, `H` and `W` multiples of 8.
        table: quantisation steps, float64, shape `(B, 1, 8, 8)` or `(1, 1, 8, 8)`.

    Returns:
        Decoded samples in [-128, 127], float32, shape `(B, C, H, W)`.
    """
    shape, width = planes.shape, planes.shape[-1]
    encode_rows, encode_columns, decode_columns, decode_rows = torch.from_numpy(_PASSES).to(planes.device).unbind()
    stacks = planes.numel() // (8 * width)  # of eight rows, all blocks of which are transformed by one matrix

    x = torch.mm(planes.reshape(-1, 8).double(), encode_rows)
    x = torch.bmm(encode_columns.expand(stacks, 8, 8), _round(x).view(-1, 8, width))
    x = _quantize(_round(x).view(*shape[:2], -1, 8, width), table)
    x = torch.bmm(decode_columns.expand(stacks, 8, 8), x.view(-1, 8, width))
    x = torch.mm(_round(x).view(-1, 8), decode_rows)
    return _round(x).clamp_(-_CENTRE, _CENTRE - 1).float().view(shape)


def _quantize(coefficients: Tensor, table: Tensor) -> Tensor:
    """Divide by eight times the step, round halves away from zero as jcdctmgr.c does, and multiply by the step.

    Ties, and only ties, are moved by the factor: whole numbers up to 2**15 keep a distance of at least 1 / (8 * step)
    from a tie that they do not meet.

    Args:
        coefficients: whole numbers in [-2**15, 2**15], shape `(B, C, H / 8, 8, W)`, changed in place.
        table: as in :func:`_code_planes`.

    Returns:
        Dequantised coefficients of an orthonormal DCT, shape as given.
    """
    width = coefficients.shape[-1]
    coefficients.mul_(_tile((1 + 2**-18) / (8 * table), width)).round_()
    return coefficients.mul_(_tile(table, width))


def _tile(table: Tensor, width: int) -> Tensor:
    """Repeat `(B, 1, 8, 8)` to eight rows of an image, `(B, 1, 1, 8, width)`."""
    repeated = table.unsqueeze(-2).expand(*table.shape[:-1], width // 8, 8)
    return repeated.reshape(len(table), 1, 1, 8, width)


def _round(x: Tensor) -> Tensor:
    """Round to whole numbers in place, halves upwards."""
    return x.add_(0.5).floor_()
