"""Check by hand how the accuracies with known and people's validation labels are compared."""

from __future__ import annotations

from scripts.research.learning_curves import Row
from scripts.research.validation_cost import BUDGETS, compare


def rows(shares: tuple[float, float], *, validated: float = 0.5, images: int = 40) -> list[Row]:
    """Return two runs with the same accuracy at all budgets."""
    return [
        Row("auto", repeat, number + 1, labels, share, validated, images, 0.0, "r0001")
        for repeat, share in enumerate(shares)
        for number, labels in enumerate(BUDGETS)
    ]


def test_the_difference_is_paired_by_seed() -> None:
    _, _, *by_budget, _, _ = compare(rows((0.5, 0.7)), rows((0.49, 0.69))).splitlines()
    assert [row.split(" | ")[0] for row in by_budget] == ["| 200", "| 500", "| 1,000"]
    assert by_budget[0].endswith(" | -1.0 ± 0.0 |")
    assert " | 60.0 ± 127.1 % | 59.0 ± 127.1 % | " in by_budget[0]


def test_intervals_of_fewer_than_30_images_are_not_counted() -> None:
    known = rows((0.5, 0.7))
    # The interval of 20 of 40 is 0.35 to 0.65.
    assert compare(known, rows((0.5, 0.7))).endswith(": 3 of 6 versions")
    assert compare(known, rows((0.5, 0.7), images=29)).endswith(": 0 of 0 versions")
