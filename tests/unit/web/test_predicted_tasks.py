"""Which pool image a task in a /predict request shows, and whether it may get a guess."""

from __future__ import annotations

from pathlib import Path

from backend.images.index import Index
from backend.images.listing import Listed, make_listing
from backend.images.validation_sample import ValidationSample
from backend.store.project_record import POOL_INDEX, write_record
from backend.web.predicted_tasks import predicted_tasks
from tests.unit.rounds.conftest import attached_record

TASK = {"id": 7, "data": {"image_id": "whatever the team calls it"}}


def test_an_index_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    record = attached_record(("cat", "dog"))
    write_record(tmp_path, record)
    before = predicted_tasks(tmp_path)
    assert (before.image_id(TASK), before.is_validation(TASK)) == ("ls-7", False)
    listing = make_listing([Listed("ls-7", "7 /data/upload/1/cat.png")], {}, ())
    listed = Index.empty(record.pool).merge(listing).index
    listed.write(tmp_path / POOL_INDEX)
    assert not predicted_tasks(tmp_path).is_validation(TASK)
    held_out = listed.hold_out(["ls-7"])
    sampled = Index(
        held_out.source, held_out.classes, held_out.table, ValidationSample(0, "f" * 64)
    )
    sampled.write(tmp_path / POOL_INDEX)
    assert predicted_tasks(tmp_path).is_validation(TASK)
