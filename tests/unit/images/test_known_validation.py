"""Test whether known labels can validate, on listings of a few images."""

from __future__ import annotations

import pytest

from backend.images.known_validation import can_hold_out
from backend.images.listing import Listed, ListedSplit, make_listing


def listed(count: int, split: ListedSplit, label: str = "") -> list[Listed]:
    names = [f"{split}-{label}-{number}" for number in range(count)]
    return [Listed(name, name, split=split, label=label) for name in names]


LABELED = [*listed(10, "train", "cat"), *listed(10, "train", "dog")]


@pytest.mark.parametrize(
    ("images", "can"),
    [
        (LABELED, True),
        ([*LABELED, *listed(5, "test", "cat")], True),
        ([*LABELED, *listed(1, "")], False),  # all labels become seeds
        ([*LABELED, *listed(1, ""), *listed(1, "validation", "cat")], True),
        (listed(9, "train", "cat"), False),  # a tenth of nine is none
        (listed(20, ""), False),
    ],
)
def test_known_labels_validate_if_all_images_have_one_or_the_list_says_so(
    images: list[Listed], can: bool
) -> None:
    assert can_hold_out(make_listing(images, {}, {"cat", "dog"})) is can
