"""Draw augmented views of uint8 images: random crops, mirror images and colors, batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.network.inference import IMAGENET_MEAN, IMAGENET_STD

BRIGHTNESS = CONTRAST = SATURATION = 0.4  # largest relative change
HUE = 0.1  # largest change, as a share of the color circle
JITTERED, GREY = 0.8, 0.2  # shares of all views
ASPECT = math.log(4 / 3)  # largest logarithm of a crop's width / height
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Crops:
    """Random crops of each image in a batch."""

    count: int
    side: int  # in pixels, after resizing
    scale: tuple[float, float]  # the smallest and the largest share of the image's area


def draw_views(images: Tensor, crops: Crops, *, may_flip: bool, rng: torch.Generator) -> Tensor:
    """Return normalized views of uint8 images: the first of every image, then the second, ..."""
    images = images.repeat(crops.count, 1, 1, 1).float().div_(255)
    views = recolor(images, *draw_colors(images.mean(dim=(2, 3)), rng))
    maps = draw_crops(len(images), crops.scale, may_flip, rng)
    grid = F.affine_grid(maps, [len(images), 3, crops.side, crops.side], align_corners=False)
    views = F.grid_sample(views, grid, padding_mode="reflection", align_corners=False)
    return views.contiguous(memory_format=torch.channels_last)


def draw_crops(
    count: int, scale: tuple[float, float], may_flip: bool, rng: torch.Generator
) -> Tensor:
    """Draw crops inside an image, as (count, 2, 3) affine maps of coordinates from -1 to 1."""
    area, aspect, x, y, mirrored = torch.rand(5, count, generator=rng)
    area = scale[0] + (scale[1] - scale[0]) * area
    ratio = ((2 * aspect - 1) * ASPECT).exp()
    width, height = (area * ratio).sqrt().clamp_(max=1), (area / ratio).sqrt().clamp_(max=1)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = torch.where(mirrored < 0.5, -width, width) if may_flip else width
    maps[:, 1, 1] = height
    maps[:, 0, 2] = (2 * x - 1) * (1 - width)
    maps[:, 1, 2] = (2 * y - 1) * (1 - height)
    return maps


def draw_colors(mean_color: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw color changes, as (images, 3, 3) matrices and (images, 3) offsets.

    All changes are linear, so a single matrix does them all. `mean_color` is each image's.
    """
    count = len(mean_color)
    drawn = 2 * torch.rand(4, count, generator=rng) - 1
    is_jittered = (torch.rand(count, generator=rng) < JITTERED).float()
    is_grey = torch.rand(count, generator=rng) < GREY
    most = torch.tensor([BRIGHTNESS, CONTRAST, SATURATION, 2 * math.pi * HUE])
    brightness, contrast, saturation, hue = drawn * is_jittered * most[:, None]
    saturation = torch.where(is_grey, 0, 1 + saturation)[:, None, None]
    luma = torch.tensor(LUMA)
    grey = luma.expand(3, 3)
    colors = saturation * torch.eye(3) + (1 - saturation) * grey
    colors = (rotate_hue(hue) @ colors) * ((1 + brightness) * (1 + contrast))[:, None, None]
    offset = -contrast * (1 + brightness) * (mean_color @ luma)
    return colors, offset[:, None].expand(count, 3)


def rotate_hue(angles: Tensor) -> Tensor:
    """Return (count, 3, 3) rotations of colors around the grey axis by `angles` in radians."""
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    third = torch.full((3, 3), 1 / 3)
    crossed = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * (torch.eye(3) - third) + sin * crossed + third


def recolor(images: Tensor, colors: Tensor, offsets: Tensor) -> Tensor:
    """Change the colors of images with values from 0 to 1, and normalize them for ImageNet."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = images.flatten(2)
    changed = torch.baddbmm(offsets[:, :, None], colors, pixels).clamp_(0, 1)
    return changed.sub_(mean[:, None]).div_(std[:, None]).view(images.shape)
