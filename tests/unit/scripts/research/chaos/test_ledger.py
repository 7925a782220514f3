"""Record acknowledged annotations in the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.research.chaos.ledger import Entry, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "ledger.jsonl")
    made.record_annotation(7, 70, "i7", 2, "cat")
    made.record_annotation(8, 80, "i8", 3, None)
    return made


def test_an_acknowledged_annotation_is_on_the_disk_at_once(ledger: Ledger, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [line["annotation_id"] for line in lines] == [7, 8]
    assert ledger.entries() == {
        7: Entry(7, 70, "i7", 2, ("cat",)),
        8: Entry(8, 80, "i8", 3, (None,)),
    }


def test_after_an_edit_without_a_response_both_labels_are_possible(ledger: Ledger) -> None:
    ledger.record_edit(7, "dog", is_clear=False)
    assert ledger.entries()[7].labels == ("cat", "dog")
    ledger.record_edit(7, "bird")
    assert ledger.entries()[7].labels == ("bird",)


def test_an_annotation_that_a_colleague_deletes_is_not_missed(ledger: Ledger) -> None:
    ledger.expect_deleted([7, 99])
    assert [entry.may_be_deleted for entry in ledger.entries().values()] == [True, False]


def test_an_annotation_without_a_response_is_not_acknowledged(ledger: Ledger) -> None:
    ledger.record_unclear(90, 2)
    assert ledger.unclear() == [(90, 2)]
    assert len(ledger.entries()) == 2
