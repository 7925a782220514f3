"""Test crops and colors on images whose pixels show what was done to them."""

from __future__ import annotations

import pytest
import torch

from backend.network.augmentation import augment, draw_crops, draw_strong_jitters

UNCHANGED = torch.tensor([[0.0, 1.0, 1.0]])


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_crops_lie_within_the_image_and_have_the_areas_asked_for() -> None:
    crops = draw_crops(1000, (0.25, 0.7), may_flip=False, rng=rng())
    half_sides = torch.stack([crops[:, 0, 0], crops[:, 1, 1]], dim=1)
    centers = crops[:, :, 2]
    assert (centers.abs() + half_sides <= 1 + 1e-6).all()
    area = half_sides.prod(dim=1)
    assert 0.25 - 1e-6 <= area.min() < 0.3
    assert 0.65 < area.max() <= 0.7 + 1e-6
    assert crops[:, 0, 1].eq(0).all()
    assert crops[:, 1, 0].eq(0).all()


@pytest.mark.parametrize(("may_flip", "share"), [(False, 0.0), (True, 0.5)])
def test_half_of_the_images_are_mirrored_only_if_they_may_be(may_flip: bool, share: float) -> None:
    crops = draw_crops(1000, (0.25, 1.0), may_flip, rng())
    assert crops[:, 0, 0].lt(0).float().mean() == pytest.approx(share, abs=0.05)


def test_a_crop_shows_its_part_of_the_image() -> None:
    image = torch.arange(4.0).repeat(1, 3, 4, 1)  # each column holds its number
    right_half = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    cropped = augment(image, right_half, UNCHANGED, 2)
    torch.testing.assert_close(cropped, torch.tensor([2.0, 3.0]).repeat(1, 3, 2, 1))
    mirrored = right_half * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(
        augment(image, mirrored, UNCHANGED, 2), torch.tensor([3.0, 2.0]).repeat(1, 3, 2, 1)
    )


def test_a_fifth_of_the_images_become_grey_and_a_fifth_keep_their_colors() -> None:
    jitters = draw_strong_jitters(2000, 0.4, share_unchanged=0.2, share_grey=0.2, rng=rng())
    brightness, contrast, saturation = jitters.T
    assert saturation.eq(0).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (brightness.eq(0) & contrast.eq(1)).float().mean() == pytest.approx(0.2, abs=0.03)
    assert brightness.abs().max() <= 0.4
    assert (contrast - 1).abs().max() <= 0.4


def test_an_image_of_no_saturation_is_grey() -> None:
    image = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    whole = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    grey = augment(image, whole, torch.tensor([[0.0, 1.0, 0.0]]), 1)
    assert grey.flatten().tolist() == [3.0, 3.0, 3.0]
