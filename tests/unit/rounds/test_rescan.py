"""Test how images that are added to a folder, or removed from it, change the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.base.arrays import Images
from backend.base.errors import PoolError
from backend.base.labeling import NewTask
from backend.images.digest import digest
from backend.images.index import Index
from backend.images.pool import open_pool
from backend.images.validation_sample import Validation
from backend.network import inference
from backend.rounds import batches, body_embeddings, ordering, rescan, scoring
from backend.rounds.embeddings import embeddings_of
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes
from backend.store import model_outputs
from backend.store.finish_store import FinishImage
from backend.store.project_record import read_record, write_record
from scripts.research.oracle import OracleProject
from tests.unit.images.image_folders import make_folder, save_image
from tests.unit.rounds.conftest import quiet, seed, train
from tests.unit.store.test_finish_store import FIRST
from tests.unit.store.test_registry import record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of 20 cats, 20 dogs, and two test images; four of the forty validate."""
    return make_folder(tmp_path / "images")


@pytest.fixture
def reopen(loop: Loop, folder: Path, tmp_path: Path) -> Callable[[], Loop]:
    """Return a function that opens the loop of the folder as any process does."""

    def open_again() -> Loop:
        pool = open_pool(
            str(folder), tmp_path, seed=0, index=tmp_path / "p1/pool.parquet", image_size=16,
            rescan=False, budget_s=0, needed=loop.store.annotated_images(),
        )  # fmt: skip
        return replace(loop, pool=pool, project=project, choices=project.choices)

    project = OracleProject(("cat", "dog"))
    return open_again


def look(reopen: Callable[[], Loop], *, must_list: bool = True) -> Loop:
    """Look for new images; return the loop with them."""
    rescan.rescan(reopen(), must_list=must_list, progress=quiet)
    return reopen()


def image_id(path: str) -> str:
    return digest(path)


def test_new_images_can_be_asked_and_none_of_them_validates(
    folder: Path, reopen: Callable[[], Loop], caplog: pytest.LogCaptureFixture
) -> None:
    before = look(reopen)
    assert len(before.pool.image_ids) == 36
    for number in range(12):
        save_image(folder / f"new/{number}.png", (9, 9, number))
    with caplog.at_level(logging.INFO):
        after = look(reopen)
    assert "pool: 12 new, 12 decoded" in caplog.messages
    assert len(after.pool.image_ids) == 48
    assert after.pool.validation.image_ids == before.pool.validation.image_ids
    facts = after.store.facts()
    assert (facts.pool_images, facts.undecoded_images, facts.exhausted_at) == (48, 0, 0)


def draw_sample(folder: Path, tmp_path: Path) -> None:
    """List the folder for a project whose annotators label a validation sample."""
    open_pool(
        str(folder), tmp_path, seed=0, index=tmp_path / "p1/pool.parquet", image_size=16,
        validation=Validation("people", 30),
    )  # fmt: skip


def test_new_images_of_the_sample_count_as_images_that_can_be_asked(
    folder: Path, tmp_path: Path, reopen: Callable[[], Loop], caplog: pytest.LogCaptureFixture
) -> None:
    draw_sample(folder, tmp_path)
    before = look(reopen)
    assert (len(before.pool.image_ids), len(before.pool.sample.image_ids)) == (32, 8)
    before.store.record(exhausted_at=1.0)
    index = before.pool.source.index if before.pool.source else None
    assert index
    assert index.sample
    names = [f"new-{number}.png" for number in range(50)]
    [drawn, *_] = [name for name in names if index.sample.contains(image_id(name))]
    save_image(folder / drawn, (9, 9, 9))
    with caplog.at_level(logging.INFO):
        after = look(reopen)
    assert "pool: 1 new, 1 decoded" in caplog.messages
    assert (len(after.pool.image_ids), len(after.pool.sample.image_ids)) == (32, 9)
    facts = after.store.facts()
    assert (facts.pool_images, facts.undecoded_images, facts.exhausted_at) == (41, 0, 0)


def test_images_that_join_the_sample_are_counted_in_the_record(
    folder: Path, tmp_path: Path, reopen: Callable[[], Loop]
) -> None:
    draw_sample(folder, tmp_path)
    loop = look(reopen)
    by_people = {"validation": "people", "validation_labels": 30, "validation_images": 8}
    write_record(loop.root, record().model_copy(update=by_people))
    assert loop.pool.source
    assert loop.pool.source.index.sample
    contains = loop.pool.source.index.sample.contains
    drawn = next(name for n in range(50) if contains(image_id(name := f"new-{n}.png")))
    save_image(folder / drawn, (9, 9, 9))
    look(reopen)
    found = read_record(loop.root)
    assert found is not None
    assert found.validation_images == 9


def test_the_ranker_leaves_new_images_of_the_sample_to_the_trainer_until_they_are_scored(
    folder: Path, tmp_path: Path, reopen: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_sample(folder, tmp_path)
    loop = replace(look(reopen), validation_labels=30)
    seed(loop, loop.project, 10)  # type: ignore[arg-type]  # it is the oracle
    version = train(loop)
    scored = loop.pool.sample.image_ids
    assert loop.pool.source
    assert loop.pool.source.index.sample
    contains = loop.pool.source.index.sample.contains
    names = [f"new-{number}.png" for number in range(50)]
    [drawn, *_] = [name for name in names if contains(image_id(name))]
    save_image(folder / drawn, (9, 9, 9))
    monkeypatch.setattr(rescan, "score_sample", lambda *_: None)  # the trainer is not yet ready
    assert image_id(drawn) in look(reopen).pool.sample.image_ids
    part = scoring.scored_part(reopen()).pool.sample
    assert part.image_ids == scored
    assert np.array_equal(part.images[:], loop.pool.sample.images[:])
    monkeypatch.undo()
    whole = look(reopen)
    assert scoring.scored_part(reopen()).pool.sample.image_ids == whole.pool.sample.image_ids
    kept = model_outputs.load_sample_probs(loop.root, version.version)
    assert kept is not None
    assert set(kept.image_ids) == {*scored, image_id(drawn)}
    assert (kept.labels == -1).all()


def test_a_folder_that_did_not_change_is_not_mentioned_in_the_log(
    reopen: Callable[[], Loop], caplog: pytest.LogCaptureFixture
) -> None:
    look(reopen)
    with caplog.at_level(logging.INFO):
        after = look(reopen)
    assert not [message for message in caplog.messages if message.startswith("pool:")]
    assert time.time() - after.store.facts().rescanned_at < 60


def test_only_new_images_are_scored_and_each_only_once(
    folder: Path, reopen: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = look(reopen)
    seed(loop, loop.project, 10)  # type: ignore[arg-type]  # it is the oracle
    version = train(loop)
    before = dict(
        zip(loop.pool.image_ids, scoring.pool_probs(loop, version, quiet).tolist(), strict=True)
    )
    save_image(folder / "new/1.png", (9, 9, 9))
    save_image(folder / "new/2.png", (99, 9, 9))
    seen = []

    def predict(model: object, images: Images, **options: object) -> inference.Outputs:
        seen.append(len(images))
        return inference.predict(model, images, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(body_embeddings, "predict", predict)
    after = look(reopen)
    assert sum(seen) == 2
    probs = scoring.pool_probs(after, version, quiet)
    embeddings_of(after, version, quiet)
    assert sum(seen) == 2
    kept = dict(zip(after.pool.image_ids, probs.tolist(), strict=True))
    assert len(kept) == 38
    assert before.items() <= kept.items()
    state = after.registry.load_state(version.version)
    new = [image_id("new/1.png"), image_id("new/2.png")]
    direct = inference.predict(
        inference.load_network(state, after.device),
        after.pool.images_of(new),
        image_size=version.image_size,
        device=after.device,
    ).probs
    # They are those of the whole network, up to the temperature.
    assert np.array_equal([np.argsort(kept[i]) for i in new], np.argsort(direct, axis=1))


def test_open_tasks_of_removed_images_are_closed_but_annotations_stay(
    folder: Path, reopen: Callable[[], Loop], caplog: pytest.LogCaptureFixture
) -> None:
    loop = look(reopen)
    project = loop.project
    assert isinstance(project, OracleProject)
    batch = batches.choose_batch(loop, 4, "random")
    batches.push(loop, batch)
    location = {image_id(f"train/{c}/{i}.png"): f"train/{c}/{i}.png"
                for c in ("cat", "dog") for i in range(20)}  # fmt: skip
    labeled, opened, *others = batch.image_ids
    [task] = [t for t in project.tasks() if t.image_id == labeled]
    project.answer(task.task_id, "cat", annotator=1)
    read_changes(project, loop.store)
    for gone in (labeled, opened):
        (folder / location[gone]).unlink()
    with caplog.at_level(logging.INFO):
        after = look(reopen)
    assert "pool: 2 removed (of which 1 had an open task)" in caplog.messages
    assert {t.image_id for t in project.tasks()} == {labeled, *others}
    assert after.store.n_open() == 2
    reading = read_labels(after, after.store.annotations())
    assert reading.labels.image_ids == (labeled,)
    assert reading.labels.left_out == {}
    assert labeled not in batches.choose_batch(after, 99, "random").image_ids


def test_a_removed_image_of_the_acceptance_sample_keeps_its_task_and_its_place(
    folder: Path, reopen: Callable[[], Loop]
) -> None:
    loop = look(reopen)
    project = loop.project
    assert isinstance(project, OracleProject)
    location = {image_id(f"train/{c}/{i}.png"): f"train/{c}/{i}.png"
                for c in ("cat", "dog") for i in range(20)}  # fmt: skip
    seed(loop, project, 20)
    train(loop)
    sampled, other, *_ = (task.image_id for task in project.tasks() if task.is_open)
    images = [FinishImage(each, "cat", 0.95) for each in (sampled, other)]
    loop.finish_store.begin(replace(FIRST, n_images=2, n_sample=1), images, [sampled])
    for gone in (sampled, other):
        (folder / location[gone]).unlink()
    after = look(reopen)
    still_open = {task.image_id: task.task_id for task in project.tasks() if task.is_open}
    assert sampled in still_open
    assert other not in still_open
    project.delete_predictions("r0001")
    ordering.order_open_tasks(after)
    assert project.predictions[still_open[sampled]]["r0001"].label is None


def test_in_an_attached_project_no_task_is_deleted_and_the_tasks_count_as_listed(
    folder: Path, reopen: Callable[[], Loop]
) -> None:
    loop = look(reopen)
    project = loop.project
    assert isinstance(project, OracleProject)
    batches.push(loop, batches.choose_batch(loop, 4, "random"))
    n_tasks = project.n_tasks()
    for path in sorted((folder / "train/cat").iterdir())[:15]:
        path.unlink()
    loop.store.record(tasks_revision=5)
    rescan.rescan(replace(reopen(), is_attached=True), must_list=False, progress=quiet)
    assert loop.store.facts().listed_revision == 0
    rescan.rescan(replace(reopen(), is_attached=True), must_list=True, progress=quiet)
    assert loop.store.facts().listed_revision == 5
    assert reopen().pool.removed_ids
    assert project.n_tasks() == loop.store.n_tasks() == n_tasks


def test_a_disk_that_is_not_mounted_is_said_and_nothing_is_removed(
    folder: Path, reopen: Callable[[], Loop], tmp_path: Path
) -> None:
    loop = look(reopen)
    batches.push(loop, batches.choose_batch(loop, 4, "random"))
    folder.rename(tmp_path / "unmounted")
    with pytest.raises(PoolError, match=r"no such folder"):
        look(reopen)
    folder.mkdir()
    with pytest.raises(PoolError, match="the folder contains no images"):
        look(reopen)
    assert reopen().pool.image_ids == loop.pool.image_ids
    assert reopen().pool.images[:3].shape == (3, 8, 8, 3)
    index = Index.read(tmp_path / "p1/pool.parquet")
    assert index is not None
    assert not index.table["is_removed"].to_numpy().any()
    assert len(loop.project.open_tasks()) == 4


def test_images_that_cannot_be_opened_are_said_and_wait(
    folder: Path, reopen: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    look(reopen)
    save_image(folder / "new/1.png", (9, 9, 9))
    refused = reopen()
    assert refused.pool.source is not None

    def refuse(_: str) -> None:
        raise PermissionError(13, "Forbidden")

    monkeypatch.setattr(refused.pool.source.source, "open", refuse)
    with pytest.raises(PoolError, match=r"can be read \('new/1.png': Forbidden\): check that"):
        rescan.rescan(refused, must_list=True, progress=quiet)
    facts = refused.store.facts()
    # They are tried again with the next listing, and meanwhile nothing is due.
    assert (facts.undecoded_images, facts.pool_images) == (0, 36)
    assert len(look(reopen).pool.image_ids) == 37


def test_a_damaged_index_is_said(reopen: Callable[[], Loop], tmp_path: Path) -> None:
    look(reopen)
    (tmp_path / "p1/pool.parquet").write_bytes(b"PAR1")
    with pytest.raises(PoolError, match=r"is damaged .* restore it from a backup"):
        look(reopen)


def test_while_images_wait_to_be_decoded_the_pool_is_not_exhausted(
    reopen: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rescan, "DECODE_FOR_S", 0.001)
    monkeypatch.setattr("backend.images.pixels.CHUNK", 16)
    loop = reopen()
    assert (len(loop.pool.image_ids), loop.pool.n_waiting) == (16, 26)
    batches.push(loop, batches.choose_batch(loop, 16, "random"))
    with caplog.at_level(logging.INFO):
        assert batches.push(loop, batches.choose_batch(loop, 16, "random")) == 0
    assert caplog.messages[-1] == "every decoded image has been queried; 26 are not decoded yet"
    loop.store.record(exhausted_at=1.0)
    loop = look(reopen, must_list=False)
    assert (loop.store.facts().undecoded_images, loop.store.facts().exhausted_at) == (10, 0)
    assert loop.store.facts().rescanned_at == 0
    assert len(batches.choose_batch(loop, 16, "random").image_ids) == 16
    assert look(reopen, must_list=False).pool.n_waiting == 0


def test_annotated_images_are_decoded_whatever_the_budget(
    reopen: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.images.pixels.CHUNK", 2)
    before = reopen()
    assert before.pool.source is not None
    index = before.pool.source.index
    waiting = set(index.image_ids[index.splits == "pool"]) - set(before.pool.image_ids)
    labels = dict.fromkeys(sorted(waiting)[:3], "cat")
    tasks = [NewTask(i, {"image_id": i}, None, label) for i, label in labels.items()]
    before.project.import_tasks(tasks)
    read_changes(before.project, before.store)
    after = reopen()
    assert set(after.pool.image_ids) == {*before.pool.image_ids, *labels}
    assert read_labels(after, after.store.annotations()).labels.image_ids == tuple(labels)


def test_the_ranker_leaves_new_images_to_the_trainer_until_they_are_scored(
    folder: Path, reopen: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = look(reopen)
    assert scoring.scored_part(loop) is loop  # no version yet
    seed(loop, loop.project, 10)  # type: ignore[arg-type]  # it is the oracle
    train(loop)
    save_image(folder / "new/1.png", (9, 9, 9))
    save_image(folder / "new/2.png", (99, 9, 9))
    monkeypatch.setattr(rescan, "pool_probs", lambda *_: None)  # the trainer is not yet ready
    whole = look(reopen)
    part = scoring.scored_part(whole)
    assert set(whole.pool.image_ids) - set(part.pool.image_ids) == {
        image_id("new/1.png"),
        image_id("new/2.png"),
    }
    assert np.array_equal(part.pool.images[:], loop.pool.images[:])
    batch = batches.choose_batch(part, 99, "margin")
    assert len(batch.image_ids) == 26 - part.store.n_open()
    monkeypatch.undo()
    look(reopen)
    assert scoring.scored_part(reopen()).pool.image_ids == whole.pool.image_ids
