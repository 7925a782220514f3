"""Frame images inside a network, so that an exported graph takes images of any size.

The functions in images/framing.py do this with Pillow. Here, tensor operations repeat Pillow's
integer arithmetic, so that torch can export them. For whole images, the result is exactly the same,
unless an image is much taller than wide. Recent releases of Pillow resize the height of such an
image before the width, so values differ by up to 1 of 255.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.images.decode import GAP
from backend.images.framing import View

# Pillow computes with integers. It divides the range from 0 to 1 into these numbers of steps.
BLOCK_STEPS = 2**24
WEIGHT_STEPS = 2**22
BICUBIC_REACH = 2.0  # pixels on each side that influence a pixel
BICUBIC_A = -0.5  # Pillow's parameter of the filter


class Framing(nn.Module):
    """Frames uint8 RGB images (n, height, width, 3) as float images (n, side, side, 3)."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._side = view.side_px
        self._is_whole = view.framing == "whole"

    def forward(self, images: Tensor) -> Tensor:
        """Return framed images with values from 0 to 255.

        Only the first intermediate result has a size that depends on the size of the images.
        """
        # In double precision, sizes are rounded as in Python.
        height, width = (torch.scalar_tensor(n, dtype=torch.float64) for n in images.shape[1:3])
        of_interest = torch.maximum if self._is_whole else torch.minimum
        factor = (of_interest(height, width) / self._side / GAP).floor().clamp(min=1)
        rows, columns = torch.ceil(height / factor), torch.ceil(width / factor)
        axes = (
            (_Axis.whole if self._is_whole else _Axis.middle)(n, rows, columns, self._side)
            for n in (rows, columns)
        )
        vertical, horizontal = axes
        blocks = _average_blocks(images, factor, vertical.positions, horizontal.positions)
        narrow = _to_bytes(torch.einsum("nhwc,ow->nhoc", blocks, horizontal.weights))
        return _to_bytes(torch.einsum("nhwc,oh->nowc", narrow, vertical.weights)).float()


class _Axis:
    """The weights that turn a row or column of blocks into a row or column of pixels."""

    def __init__(self, positions: Tensor, weights: Tensor) -> None:
        self.positions = positions  # of the blocks; some may lie outside the image
        shares = weights / weights.sum(dim=1, keepdim=True)
        self.weights = (shares * WEIGHT_STEPS).round()  # (pixels, blocks)

    @staticmethod
    def whole(n: Tensor, rows: Tensor, columns: Tensor, side: int) -> _Axis:
        """Shrink or enlarge all `n` blocks, and mirror them at both ends to fill the side."""
        n_pixels = (side / torch.maximum(rows, columns) * n).round().clamp(min=1)
        place = torch.arange(side) - ((side - n_pixels) / 2).floor()
        place = place.remainder(2 * n_pixels)
        place = torch.minimum(place, 2 * n_pixels - 1 - place)
        step = n / n_pixels
        # `factor` is chosen so that there are fewer blocks than this.
        positions = torch.arange(2 * GAP * side)
        distance = _distances(positions, (place + 0.5) * step, step)
        return _Axis(positions, (1 - distance).clamp(min=0) * (positions < n))

    @staticmethod
    def middle(n: Tensor, rows: Tensor, columns: Tensor, side: int) -> _Axis:
        """Shrink or enlarge the middle of `n` blocks as ImageOps.fit does."""
        n_kept = torch.minimum(rows, columns)
        first, step = (n - n_kept) / 2, n_kept / side
        margin = int(BICUBIC_REACH * 2 * GAP) + 1
        positions = first.floor() - margin + torch.arange(2 * (GAP * side + margin))
        distance = _distances(positions, first + (torch.arange(side) + 0.5) * step, step)
        is_inside = (positions >= 0) & (positions < n)
        return _Axis(positions, _bicubic(distance) * is_inside)


def _distances(positions: Tensor, centers: Tensor, step: Tensor) -> Tensor:
    """Return the distance of each pixel to each block, in units of the larger of the two."""
    return (positions[None] + 0.5 - centers[:, None]).abs() / step.clamp(min=1)


def _bicubic(x: Tensor) -> Tensor:
    near = ((BICUBIC_A + 2) * x - (BICUBIC_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * BICUBIC_A
    return torch.where(x < 1, near, torch.where(x < BICUBIC_REACH, far, torch.zeros_like(x)))


def _average_blocks(images: Tensor, factor: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Average blocks of `factor` x `factor` pixels, as Image.reduce does. Blocks at the end may be
    smaller. Blocks outside the image are 0.
    """
    sums, counts = images.to(torch.int32), torch.ones(1, 1, dtype=torch.int64)
    for axis, positions in ((1, rows), (2, columns)):
        starts, ends = (
            (at * factor).clamp(min=0).minimum(torch.scalar_tensor(images.shape[axis]).double())
            for at in (positions, positions + 1)
        )
        starts, ends = starts.to(torch.int64), ends.to(torch.int64)
        until = sums.cumsum(axis, dtype=torch.int32)
        zero = torch.zeros_like(until.narrow(axis, 0, 1))
        until = torch.cat([zero, until], dim=axis)
        sums = until.index_select(axis, ends) - until.index_select(axis, starts)
        counts = counts * (ends - starts).unsqueeze(2 - axis)
    n = counts.clamp(min=1)[None, :, :, None]
    per_pixel = torch.full_like(n, BLOCK_STEPS) // n
    return ((sums.to(torch.int64) + n // 2) * per_pixel // BLOCK_STEPS).double()


def _to_bytes(weighted: Tensor) -> Tensor:
    return (weighted / WEIGHT_STEPS + 0.5).floor().clamp(0, 255)
