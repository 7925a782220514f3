"""Which pool image a task in a /predict request shows, and whether it may get a guess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from backend.images.index import Index
from backend.images.listing import Listed, make_listing
from backend.images.validation_sample import ValidationSample
from backend.store.finish_store import FinishImage, FinishStore
from backend.store.project_record import POOL_INDEX, write_record
from backend.web.predicted_tasks import predicted_tasks
from tests.unit.rounds.conftest import attached_record
from tests.unit.store.test_finish_store import FIRST
from tests.unit.store.test_registry import record

TASK = {"id": 7, "data": {"image_id": "whatever the team calls it"}}


def test_an_index_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    record = attached_record(("cat", "dog"))
    write_record(tmp_path, record)
    before = predicted_tasks(tmp_path)
    assert (before.image_id(TASK), before.is_without_guess(TASK)) == ("ls-7", False)
    listing = make_listing([Listed("ls-7", "7 /data/upload/1/cat.png")], {}, ())
    listed = Index.empty(record.pool).merge(listing).index
    listed.write(tmp_path / POOL_INDEX)
    assert not predicted_tasks(tmp_path).is_without_guess(TASK)
    held_out = listed.hold_out(["ls-7"])
    sampled = Index(
        held_out.source, held_out.classes, held_out.table, ValidationSample(0, "f" * 64)
    )
    sampled.write(tmp_path / POOL_INDEX)
    assert predicted_tasks(tmp_path).is_without_guess(TASK)


def test_images_of_an_acceptance_sample_get_no_guess_until_the_try_has_ended(
    tmp_path: Path,
) -> None:
    own, team = tmp_path / "p7", tmp_path / "p12"
    write_record(own, record(7))
    write_record(team, attached_record(("cat", "dog")))
    tasks = {own: {"id": 4, "data": {"image_id": "i4"}}, team: {"id": 7, "data": {}}}
    for root, sampled in ((own, "i4"), (team, "ls-7")):
        images = [FinishImage(sampled, "cat", 0.9), FinishImage("ls-8", "cat", 0.9)]
        finish = FinishStore(root)
        assert not predicted_tasks(root).is_without_guess(tasks[root])
        finish.begin(replace(FIRST, n_sample=1), images, [sampled])
        assert predicted_tasks(root).is_without_guess(tasks[root])
        assert not predicted_tasks(root).is_without_guess({"id": 8, "data": {"image_id": "i5"}})
        finish.end(1, "passed", 0, 1.0)
        assert not predicted_tasks(root).is_without_guess(tasks[root])
