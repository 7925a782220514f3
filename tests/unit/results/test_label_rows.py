"""Check the rows of projects that are small enough to follow by hand."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.unit.results.exporter import ADA, BO, CY, Exporter


def test_a_row_says_what_people_chose_who_they_are_and_when(exporter: Exporter) -> None:
    exporter.ask("3.png")
    exporter.annotate("3.png", "cat", ADA)
    exporter.annotate("3.png", "dog", BO)
    exporter.annotate("3.png", "dog", CY)
    row = exporter.row("3.png")
    assert (row.label, row.labeled_by, row.split) == ("dog", "people", "train")
    assert (row.annotations, row.annotators) == (
        3,
        "ada@example.org;bo@example.org;cy@example.org",
    )
    assert row.annotated_at == datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
    assert (row.asked_round, row.asked_version, row.asked_strategy) == (2, "r0001", "margin")
    assert row.label_probability == 0.1  # as the version that queried the image predicted
    assert row.model_version is None
