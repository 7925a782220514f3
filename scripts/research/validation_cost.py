"""Simulate the cost of validation labels: annotators who give them label fewer training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import pandas as pd

from backend.images.validation_sample import KNOWN, Validation
from backend.measures.evaluation import MIN_IMAGES
from backend.measures.interval import interval_of
from scripts.research.learning_curves import Row, curves, gain, interval
from scripts.research.simulation import Run, finished_rows, run_missing

BUDGETS = (200, 500, 1000)  # labels given by people
PEOPLE = Validation("people", 200)


def simulate_both(run: Run, repeats: int, jobs: int) -> tuple[list[Row], list[Row]]:
    """Simulate `run` with known validation labels, and with validation labels from annotators.

    Each repeat has its own seed. Finished simulations are not repeated. Returns the rows for known
    labels, and the rows for labels from annotators.
    """
    runs = {
        validation.by: [
            replace(
                run,
                repeat=repeat,
                folder=run.folder / f"{validation.by}-{repeat}",
                validation=validation,
            )
            for repeat in range(repeats)
        ]
        for validation in (KNOWN, PEOPLE)
    }
    run_missing([*chain(*zip(*runs.values(), strict=True))], jobs)
    known, people = (
        [row for run in of_kind for row in finished_rows(run)] for of_kind in runs.values()
    )
    return known, people


def compare(known: Sequence[Row], people: Sequence[Row]) -> str:
    """Return a Markdown table of test accuracies by the number of labels that people gave."""
    lines = [
        "| labels given by people | `VALIDATION=known` | `VALIDATION=people` "
        "| difference, points |",
        "|---|---|---|---|",
    ]
    of_known, of_people = (curves(rows, rows[0].strategy) for rows in (known, people))
    for budget in BUDGETS:
        difference, half = gain(of_people, of_known, budget)
        cells = [_share(of[budget]) for of in (of_known, of_people)]
        lines.append(
            f"| {budget:,} | {cells[0]} | {cells[1]} | {100 * difference:+.1f} ± {100 * half:.1f} |"
        )
    judged = [row for row in people if row.validation_images >= MIN_IMAGES]
    bounds = [interval_of(row.validation_accuracy, row.validation_images) for row in judged]
    held = sum(
        low <= row.test_accuracy <= high for row, (low, high) in zip(judged, bounds, strict=True)
    )
    return "\n".join(
        [
            *lines,
            "",
            f"intervals with `VALIDATION=people` that contain the accuracy on the test split: "
            f"{held} of {len(judged)} versions",
        ]
    )


def _share(values: pd.Series) -> str:
    mean, half = interval(values.to_numpy())
    return f"{100 * mean:.1f} ± {100 * half:.1f} %"
