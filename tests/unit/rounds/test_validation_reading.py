"""Read validation labels from the project's database alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.classes import ClassList
from backend.base.labeling import VALIDATION, Annotation, Asked, DeletedSkip, Task, TaskReading
from backend.people.validation_labels import ValidationProgress
from backend.rounds.validation_reading import NO_READING, read_validation
from backend.store.project_store import ProjectStore

NOON = 1_700_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    return ProjectStore(tmp_path / "p7")


def classes_of(*names: str) -> ClassList:
    return ClassList(names, names)


def annotation(task_id: int, annotator: int, label: str | None) -> Annotation:
    return Annotation(
        annotation_id=10 * task_id + annotator,
        task_id=task_id,
        image_id=f"img-{task_id}",
        annotator=annotator,
        label=label,
        was_skipped=label is None,
        updated_at=f"2026-01-01T12:00:0{annotator}Z",
    )


def task(
    task_id: int, *annotations: Annotation, by: str = VALIDATION, is_again: bool = False
) -> TaskReading:
    """Return a task as read from Label Studio, with how it was asked in its data."""
    image_id = f"img-{task_id}"
    own = Task(task_id, image_id, is_open=not annotations, awaits_second_opinion=is_again)
    asked = Asked(image_id, round=1, strategy=by, version="r0001")
    return TaskReading(own, "2026-01-01T12:00:00Z", annotations, asked)


def test_labeled_pending_and_undecided_images_are_counted(store: ProjectStore) -> None:
    store.record_tasks(
        [
            task(1, annotation(1, 1, "Cat")),
            task(2, annotation(2, 1, "Dog"), annotation(2, 2, "Dog")),
            task(3, annotation(3, 1, "Dog"), annotation(3, 2, "Cat")),  # both are active
            task(4, annotation(4, 1, "Dog"), is_again=True),  # waits for 2
            task(5),
            task(6, annotation(6, 1, "Dog"), by="margin"),
        ],
        NOON,
    )
    reading = read_validation(store, classes_of("Cat", "Dog"), 30)
    assert reading.labels == {"img-1": "Cat", "img-2": "Dog"}
    assert reading.progress == ValidationProgress(labeled=2, wanted=30, undecided=1, pending=2)
    assert [task.task_id for task in reading.tasks] == [1, 2, 3, 4, 5]
    assert reading.n_active == 2


def test_the_case_of_class_names_does_not_matter_but_unknown_classes_decide_nothing(
    store: ProjectStore,
) -> None:
    store.record_tasks(
        [task(1, annotation(1, 1, "Cat")), task(2, annotation(2, 1, "Unicorn"))], NOON
    )
    assert read_validation(store, classes_of("cat", " DOG "), 30).labels == {"img-1": "cat"}


def test_a_recorded_skip_counts_although_label_studio_has_lost_it(store: ProjectStore) -> None:
    store.record_deleted_skip(DeletedSkip(1, "img-1", 1))
    store.record_tasks([task(1)], NOON)
    assert read_validation(store, classes_of("Cat"), 30).progress.pending == 1
    store.record_tasks([task(1, annotation(1, 1, None))], NOON)
    assert read_validation(store, classes_of("Cat"), 30).progress.undecided == 1


def test_a_project_without_a_sample_has_nothing_to_read(store: ProjectStore) -> None:
    assert read_validation(store, classes_of("Cat"), 0) == NO_READING
    assert read_validation(store, classes_of("Cat"), 30).progress.wanted == 30
