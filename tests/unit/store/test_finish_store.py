"""Store the tries to have the model label the rest, and find their images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.base.errors import FinishError
from backend.base.labeling import ACCEPTANCE, Annotation, Asked, Task, TaskReading
from backend.store.finish_store import (
    FinishImage,
    FinishStore,
    FinishTry,
    ModelLabel,
    SampledImage,
    TryState,
)
from backend.store.project_db import MIGRATIONS, connect, copy, reading, select
from backend.store.project_store import ProjectStore

NOON = 1_700_000_000.0
FIRST = FinishTry(
    number=1,
    started_at=NOON,
    version="r0002",
    max_error=0.25,
    share=0.025,
    threshold=0.9,
    n_images=6,
    n_sample=2,
    allowed_errors=0,
    n_unlabeled=9,
)
IMAGES = [FinishImage(f"i{n}", "cat", 0.9 + n / 100) for n in range(6)]
SAMPLE = ["i4", "i1"]
STATES: tuple[TryState, ...] = ("asking", "passed", "failed", "canceled")


@pytest.fixture
def store(tmp_path: Path) -> FinishStore:
    return FinishStore(tmp_path)


@pytest.fixture
def begun(store: FinishStore) -> FinishStore:
    store.begin(FIRST, IMAGES, SAMPLE)
    return store


def end(store: FinishStore, state: TryState, number: int = 1) -> None:
    store.end(number, state, 0, NOON + 60)


def annotate(
    tmp_path: Path, image_id: str, label: str | None, task_id: int = 7, annotator: int = 1
) -> Annotation:
    """Record a task that one person has annotated, or skipped if the label is None."""
    given = Annotation(
        annotation_id=task_id,
        task_id=task_id,
        image_id=image_id,
        annotator=annotator,
        label=label,
        was_skipped=label is None,
        updated_at="2026-01-01T12:00:00Z",
    )
    task = Task(task_id, image_id, is_open=False, awaits_second_opinion=False)
    ProjectStore(tmp_path).record_tasks([TaskReading(task, "2026-01-01", (given,), None)], NOON)
    return given


def test_a_project_without_a_try_has_nothing_and_reading_creates_no_file(tmp_path: Path) -> None:
    store = FinishStore(tmp_path / "p7")
    assert (store.tries(), store.current(), store.asking()) == ([], None, None)
    assert (store.model_labels(), store.n_model_labels(), store.reserved()) == ({}, 0, set())
    assert (store.sample(1), store.sample_tasks(1), store.sample_annotations(1)) == ([], [], {})
    assert not (tmp_path / "p7").exists()


def test_a_try_is_kept_as_it_began_with_its_sample_in_order(begun: FinishStore) -> None:
    assert begun.tries() == [FIRST]
    assert begun.current() == begun.asking() == FIRST
    assert begun.sample(1) == SAMPLE
    assert begun.sampled_images(1) == [
        SampledImage("i4", "cat", is_lost=False),
        SampledImage("i1", "cat", is_lost=False),
    ]
    assert begun.reserved() == {"i0", "i1", "i2", "i3", "i4", "i5"}
    assert begun.model_labels() == {}
    assert (FIRST.n_left, FIRST.most_wrong) == (4, 1)


def test_a_promise_about_2_percent_of_14210_labels_is_at_most_284_wrong() -> None:
    assert replace(FIRST, max_error=0.02, n_images=14_393, n_sample=183).most_wrong == 284
    assert replace(FIRST, max_error=0.1, n_images=130, n_sample=100).most_wrong == 3


@pytest.mark.parametrize("state", STATES)
def test_only_a_try_that_passed_has_labels_and_only_a_live_one_reserves_images(
    state: TryState, begun: FinishStore
) -> None:
    end(begun, state)
    [ended] = begun.tries()
    assert begun.current() == (ended if state in ("asking", "passed") else None)
    assert len(begun.reserved()) == (6 if state in ("asking", "passed") else 0)
    labels = {i.image_id: ModelLabel("cat", i.confidence, "r0002", 1) for i in IMAGES}
    of_rest = {i: label for i, label in labels.items() if i not in SAMPLE}
    assert begun.model_labels() == (of_rest if state == "passed" else {})
    assert begun.n_model_labels() == (4 if state == "passed" else 0)


def test_the_end_is_recorded_once_but_a_promise_can_be_given_up(begun: FinishStore) -> None:
    begun.end(1, "passed", 1, NOON + 60, 2)
    begun.end(1, "failed", 2, NOON + 90)
    passed = replace(FIRST, state="passed", n_errors=1, ended_at=NOON + 60, n_decided=2)
    assert begun.tries() == [passed]
    begun.end(1, "canceled", 1, NOON + 99, 2)
    assert begun.tries() == [replace(passed, state="canceled", ended_at=NOON + 99)]
    begun.end(1, "passed", 0, NOON + 120)
    assert begun.current() is None


@pytest.mark.parametrize("state", STATES)
def test_tries_that_do_not_pass_do_not_fill_the_database(
    state: TryState, begun: FinishStore, tmp_path: Path
) -> None:
    end(begun, state)
    [(n_images,)] = select(tmp_path, "SELECT count(*) FROM own_finish_image")
    assert n_images == {"asking": 6, "passed": 6, "failed": 2, "canceled": 2}[state]
    assert begun.sample(1) == SAMPLE


def test_a_second_try_cannot_begin_while_the_first_is_asking(begun: FinishStore) -> None:
    with pytest.raises(FinishError, match=r"already being labeled: .* --cancel"):
        begun.begin(replace(FIRST, number=2), IMAGES, SAMPLE)
    assert begun.tries() == [FIRST]


def test_two_processes_that_begin_the_same_try_start_it_once(begun: FinishStore) -> None:
    end(begun, "failed")
    begun.begin(replace(FIRST, number=2), IMAGES, SAMPLE)
    end(begun, "canceled", 2)
    with pytest.raises(FinishError, match="at the same time"):
        begun.begin(replace(FIRST, number=2), IMAGES, SAMPLE)
    assert [t.state for t in begun.tries()] == ["failed", "canceled"]


def test_an_interrupted_begin_leaves_nothing(store: FinishStore) -> None:
    with pytest.raises(AttributeError):
        store.begin(FIRST, [*IMAGES, None], SAMPLE)  # type: ignore[list-item]  # breaks off
    assert store.tries() == []
    assert store.reserved() == set()


def test_the_labels_of_several_passed_tries_add_up(begun: FinishStore) -> None:
    end(begun, "passed")
    others = [FinishImage("j1", "dog", 0.95), FinishImage("j2", "dog", 0.96)]
    begun.begin(replace(FIRST, number=2, version="r0003", n_images=2, n_sample=1), others, ["j2"])
    end(begun, "passed", 2)
    assert begun.model_labels()["j1"] == ModelLabel("dog", 0.95, "r0003", 2)
    assert begun.n_model_labels() == 5
    assert len(begun.reserved()) == 8


def test_a_label_by_a_person_is_no_label_by_the_model_but_a_skip_changes_nothing(
    begun: FinishStore, tmp_path: Path
) -> None:
    end(begun, "passed")
    annotate(tmp_path, "i0", "dog", task_id=7)
    annotate(tmp_path, "i2", None, task_id=8)
    assert begun.n_model_labels() == 3
    assert len(begun.model_labels()) == 4


def test_an_image_of_the_sample_can_be_lost(begun: FinishStore) -> None:
    begun.record_lost(1, ["i1"])
    assert [image.is_lost for image in begun.sampled_images(1)] == [False, True]
    assert begun.sample(1) == SAMPLE


def test_only_tasks_and_annotations_of_the_sample_are_found(
    begun: FinishStore, tmp_path: Path
) -> None:
    given = annotate(tmp_path, "i4", "cat", task_id=7)
    annotate(tmp_path, "i0", "cat", task_id=8)
    assert [task.task_id for task in begun.sample_tasks(1)] == [7]
    assert begun.sample_annotations(1) == {7: [given]}


def test_a_teams_task_counts_once_it_is_asked_or_annotated(
    store: FinishStore, tmp_path: Path
) -> None:
    images = [FinishImage(f"ls-{n}", "cat", 0.9) for n in (1, 2, 3)]
    store.begin(replace(FIRST, n_images=3, n_sample=3), images, ["ls-1", "ls-2", "ls-3"])
    tasks = [Task(n, f"ls-{n}", is_open=True, awaits_second_opinion=False) for n in (1, 2, 3)]
    project = ProjectStore(tmp_path)
    project.record_tasks([TaskReading(t, "2026-01-01", (), None, "/a.png") for t in tasks], NOON)
    assert store.sample_tasks(1) == []
    project.record_asked([Asked("ls-2", 2, ACCEPTANCE, "r0002")])
    annotate(tmp_path, "ls-3", "cat", task_id=3)
    assert [task.task_id for task in store.sample_tasks(1)] == [2, 3]


def test_an_earlier_database_gets_the_tables_and_keeps_its_records(tmp_path: Path) -> None:
    project = ProjectStore(tmp_path)
    project.record(read_at=NOON)
    db = connect(tmp_path)
    for table in ("own_finish_try", "own_finish_image", "own_adopted", "own_outcome"):
        db.execute(f"DROP TABLE {table}")
    for kind, name in (("VIEW", "mirror_queried"), ("INDEX", "mirror_task_foreign")):
        db.execute(f"DROP {kind} {name}")
    db.execute("ALTER TABLE mirror_task DROP COLUMN is_foreign")
    db.execute("ALTER TABLE own_error DROP COLUMN failing_step")
    db.execute("PRAGMA user_version = 3")
    db.close()
    assert FinishStore(tmp_path).tries() == []
    FinishStore(tmp_path).begin(FIRST, IMAGES, SAMPLE)
    assert project.facts().read_at == NOON
    with reading(tmp_path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_a_backup_contains_the_tries(begun: FinishStore, tmp_path: Path) -> None:
    end(begun, "passed")
    folder = tmp_path / "backup"
    folder.mkdir()
    copy(tmp_path, folder)
    assert FinishStore(folder).tries() == begun.tries()
    assert FinishStore(folder).model_labels() == begun.model_labels()
