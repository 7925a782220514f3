"""Change batches of images at random, on the device: crops, flips, colors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RATIOS = (3 / 4, 4 / 3)  # the aspect ratios of random crops, relative to the image's


def augment(images: Tensor, views: Tensor, jitters: Tensor, image_size: int) -> Tensor:
    """Change the colors of normalized images, then apply affine maps and resize to squares.

    `views` are (images, 2, 3) affine maps from the new image's coordinates to the old ones, which
    range from -1 to 1. `jitters` are (images, 3): brightness (0 = none), contrast and saturation
    (1 = unchanged). Saturation scales the distance of a pixel from the mean of its three channels;
    contrast scales the distance of a pixel from ImageNet's mean color (Howard 2013,
    arXiv:1312.5402). Mirrored pixels fill the edges.
    """
    brightness, contrast, saturation = jitters.T[..., None, None, None]
    grey = images.mean(dim=1, keepdim=True)
    # Change colors before resizing, while the images are small: both steps are linear, so their
    # order does not affect the result.
    jittered = grey.lerp(images, saturation).mul_(contrast).add_(brightness)
    grid = F.affine_grid(views, [len(images), 3, image_size, image_size], align_corners=False)
    resized = F.grid_sample(jittered, grid, padding_mode="reflection", align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)


def draw_crops(n: int, areas: tuple[float, float], may_flip: bool, rng: torch.Generator) -> Tensor:
    """Draw random crops, as (n, 2, 3) affine maps.

    `areas` are the smallest and the largest share of the image's area that a crop may have.
    """
    area = _uniform(n, *areas, rng)
    ratio = _uniform(n, math.log(RATIOS[0]), math.log(RATIOS[1]), rng).exp()
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    flips = torch.randint(2, (n,), generator=rng) * 2 - 1 if may_flip else torch.ones(n)
    views = torch.zeros(n, 2, 3)
    views[:, 0, 0] = width * flips
    views[:, 1, 1] = height
    views[:, 0, 2] = _uniform(n, -1.0, 1.0, rng) * (1 - width)
    views[:, 1, 2] = _uniform(n, -1.0, 1.0, rng) * (1 - height)
    return views


def draw_strong_jitters(
    n: int, most: float, share_unchanged: float, share_grey: float, rng: torch.Generator
) -> Tensor:
    """Draw (n, 3) brightness, contrast and saturation that differ by up to `most`.

    A part of the images keeps its colors, and then a part becomes grey (Chen et al. 2020,
    arXiv:2003.04297).
    """
    unchanged = torch.tensor([0.0, 1.0, 1.0])
    moved = _uniform(3 * n, -most, most, rng).view(n, 3)
    moved[torch.rand(n, generator=rng) < share_unchanged] = 0
    jitters = moved + unchanged
    jitters[torch.rand(n, generator=rng) < share_grey, 2] = 0
    return jitters


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng) * (high - low) + low
