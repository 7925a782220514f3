"""Test the draw of the validation sample on ids."""

from __future__ import annotations

import pytest

from backend.images.validation_sample import ValidationSample, draw_sample

IDS = [f"image-{number}" for number in range(1000)]


def drawn(n_images: int, n_labels: int, seed: int = 0) -> list[str]:
    sample = draw_sample(IDS[:n_images], seed, n_labels)
    return sample.choose(IDS[:n_images]) if sample else []


@pytest.mark.parametrize(
    ("n_images", "n_labels", "count"),
    [
        (1000, 30, 40),  # a third more than the labels
        (1000, 100, 134),  # 133.3, rounded up
        (1000, 200, 200),  # a fifth, less than 267
        (99, 30, 19),
        (5, 30, 1),
        (4, 30, 0),
        (0, 30, 0),
    ],
)
def test_a_sample_is_a_third_more_than_the_labels_but_at_most_a_fifth_of_the_images(
    n_images: int, n_labels: int, count: int
) -> None:
    assert len(drawn(n_images, n_labels)) == count


def test_the_same_seed_draws_the_same_images_whatever_their_order_and_another_seed_others() -> None:
    assert draw_sample(IDS, 0, 30) == draw_sample(IDS[::-1], 0, 30)
    assert set(drawn(1000, 30, seed=1)) != set(drawn(1000, 30, seed=0))


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    assert drawn(1000, 60)[:40] == drawn(1000, 30)


def test_images_are_asked_in_the_order_of_the_draw_whatever_the_order_they_are_given_in() -> None:
    sample = draw_sample(IDS, 0, 30)
    assert sample is not None
    assert sample.order(IDS[::-1]) == sample.order(IDS)
    assert sample.order(IDS)[:40] == sample.choose(IDS)


def test_an_image_is_in_the_sample_or_not_whatever_other_images_exist() -> None:
    sample = draw_sample(IDS[:500], 0, 30)
    assert sample is not None
    assert sample.contains(sample.choose(IDS[:500])[-1])
    assert len(sample.choose(IDS[:500])) == 40
    assert len(sample.choose(IDS)) > 40  # images that are added later can join
    assert not ValidationSample(0, "").contains(IDS[0])
