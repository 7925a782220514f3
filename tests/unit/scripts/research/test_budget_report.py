"""Compare strategies with random selection at a few numbers of labels."""

from __future__ import annotations

import pytest

from scripts.research.budget_report import (
    compare_with_random,
    differences,
    holm,
    labels_for_reference,
)
from scripts.research.learning_curves import Row


def rows(strategy: str, *runs: tuple[float, ...]) -> list[Row]:
    return [
        Row(strategy, repeat, number + 1, (number + 1) * 100, accuracy, accuracy, 2000, 0.02, "r1")
        for repeat, run in enumerate(runs)
        for number, accuracy in enumerate(run)
    ]


RANDOM = rows("random", (0.40, 0.50, 0.60), (0.42, 0.52, 0.62), (0.44, 0.54, 0.64))
AUTO = rows("auto", (0.50, 0.50, 0.59), (0.52, 0.52, 0.62), (0.54, 0.54, 0.65))
WORSE = rows("margin", (0.30, 0.40, 0.50), (0.32, 0.42, 0.52), (0.34, 0.44, 0.55))


def test_holm_multiplies_the_smallest_p_value_by_the_number_of_comparisons() -> None:
    # 0.01 x 3; 0.02 x 2; 0.03 x 1 would be smaller than the one before it, so 0.04 again.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


def test_a_difference_is_paired_by_seed() -> None:
    first, second, third = differences([*AUTO, *RANDOM], ["auto", "random"], [100, 200, 300])
    assert [first.labels, second.labels, third.labels] == [100, 200, 300]
    assert [first.mean, second.mean, third.mean] == pytest.approx([0.10, 0, 0])
    # The gains are -1, 0 and 1 points: mean 0, so Student's t is 0.
    assert [first.p_value, second.p_value, third.p_value] == pytest.approx([0, 1, 1], abs=1e-6)
    assert third.half == pytest.approx(0.01 * 4.303 / 3**0.5, abs=1e-5)


def test_the_report_names_the_budgets_at_which_a_strategy_is_worse() -> None:
    text = compare_with_random([*AUTO, *WORSE, *RANDOM], ["auto", "margin", "random"], [100, 300])
    assert "for all 4 comparisons" in text
    assert "| 100 | **+10.0 ± 0.0** | **-10.0 ± 0.0** |" in text
    assert "| 300 | +0.0 ± 2.5 | **-9.7 ± 1.4** |" in text
    assert "auto is nowhere worse than random" in text
    assert "margin is worse than random at 100, 300 labels" in text
    assert compare_with_random(AUTO, ["auto"], [100]) == ""


def test_labels_are_counted_to_the_final_accuracy_of_another_simulation() -> None:
    weak = rows("random", (0.35, 0.45, 0.50), (0.37, 0.47, 0.52))
    # It ends at 51 %, which auto reaches at its first 100 of 300 labels.
    text = labels_for_reference(AUTO, ["auto"], weak)
    assert "auto needs 33% (33% to 33%) of the labels for the 51.0% of the reference's" in text
