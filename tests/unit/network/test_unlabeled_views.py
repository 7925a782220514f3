"""Test which images the batches of an adaptation show, and how."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.network import inference
from backend.network.team import ALONE, Team
from backend.network.unlabeled_views import UnlabeledViews

CPU = torch.device("cpu")


def views(
    images: NDArray[np.uint8],
    *,
    image_size: int,
    batch_size: int,
    min_area: float = 1.0,
    team: Team = ALONE,
) -> UnlabeledViews:
    """Serve batches that show whole images in their colors, unless `min_area` is below 1."""
    return UnlabeledViews(
        images,
        image_size=image_size,
        batch_size=batch_size,
        min_area=min_area,
        color_jitter=0.0,
        share_unchanged=0.0,
        share_grey=0.0,
        may_flip=False,
        seed=0,
        device=CPU,
        team=team,
    )


def numbered(n: int) -> NDArray[np.uint8]:
    """Return images whose pixels all hold the image's number."""
    return np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


def numbers(batch: torch.Tensor) -> list[int]:
    mean, std = inference.IMAGENET_MEAN[0] * 255, inference.IMAGENET_STD[0] * 255
    return (batch[:, 0, 0, 0] * std + mean).round().int().tolist()


@pytest.mark.parametrize("batch_size", [3, 10, 64])
def test_every_image_is_seen_once_in_each_pass(batch_size: int) -> None:
    served = views(numbered(10), image_size=1, batch_size=batch_size)
    size = min(batch_size, 10)
    seen = [number for step in range(10) for number in numbers(served.pair(step)[0])]
    assert len(seen) == 10 * size
    passes = [seen[at : at + 10] for at in range(0, len(seen), 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)  # each in another order


def test_a_batch_is_the_same_whichever_batches_were_drawn_before() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    in_order = views(images, image_size=8, batch_size=4, min_area=0.25)
    for step in range(7):
        in_order.pair(step)
    resumed = views(images, image_size=8, batch_size=4, min_area=0.25)
    for expected, view in zip(in_order.pair(7), resumed.pair(7), strict=True):
        assert torch.equal(view, expected)


def test_the_two_views_are_of_the_same_images_but_different_crops() -> None:
    served = views(numbered(10), image_size=1, batch_size=4)
    first, second = served.pair(0)
    assert numbers(first) == numbers(second)
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    first, second = views(images, image_size=8, batch_size=4, min_area=0.25).pair(0)
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("size", [16, 32, 64, 80])
def test_plain_images_are_what_inference_sees(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    images = image.repeat(size // 8, axis=1).repeat(size // 8, axis=2).repeat(2, axis=0)
    [plain] = views(images, image_size=32, batch_size=4).plain(most=10)
    ready = inference.normalizer(CPU)(inference.on_device(images, CPU))
    # Only images of more than twice the size are shrunk in two steps.
    tolerance = 0.3 if size > 64 else 0
    torch.testing.assert_close(plain, inference.resize(ready, 32), atol=tolerance, rtol=0)


def test_plain_batches_are_of_about_equal_size_and_stop_at_the_most() -> None:
    served = views(numbered(100), image_size=1, batch_size=8)
    batches = [numbers(batch) for batch in served.plain(most=17)]
    assert [len(batch) for batch in batches] == [6, 6, 5]
    shown = [number for batch in batches for number in batch]
    assert len(set(shown)) == 17
    assert shown != sorted(shown)


def test_the_parts_of_a_team_are_together_the_batch_of_one_process() -> None:
    images = np.random.default_rng(0).integers(256, size=(40, 8, 8, 3), dtype=np.uint8)
    options = {"image_size": 8, "batch_size": 12, "min_area": 0.25}
    alone = views(images, **options)  # type: ignore[arg-type]
    teams = [views(images, **options, team=Team(rank, 3)) for rank in range(3)]  # type: ignore[arg-type]
    for step in range(5):
        whole = alone.pair(step)
        parts = zip(*(member.pair(step) for member in teams), strict=True)
        for of_alone, of_team in zip(whole, parts, strict=True):
            assert torch.equal(of_alone, torch.cat(of_team))
