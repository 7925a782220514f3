"""Correct times in the future after the machine's clock was set back."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.labeling import Annotation, Task, TaskReading
from backend.store.moments import correct_moments
from backend.store.project_store import ProjectStore

NOON = 1_700_000_000.0
AN_HOUR_LATER = NOON + 3600


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    return ProjectStore(tmp_path)


def read(store: ProjectStore, now: float, *image_ids: str, updated_at: str = "2026-01-01") -> None:
    """Record a full reading that finds tasks 1, 2, ... for these images, each labeled cat."""
    readings = []
    for i, image_id in enumerate(image_ids, start=1):
        label = Annotation(i, i, image_id, 2, "cat", was_skipped=False, updated_at=updated_at)
        task = Task(i, image_id, is_open=False, awaits_second_opinion=False)
        readings.append(TaskReading(task, updated_at, (label,), None))
    store.record_tasks(readings, now)
    store.record_reading(now, is_full=True)


def test_times_in_the_future_move_to_just_before_now_in_their_order(
    store: ProjectStore, tmp_path: Path
) -> None:
    store.record(trained_at=NOON + 100, train_asked_at=NOON + 300, decoded_at=NOON - 5)
    store.record_failure("refit", NOON + 200)
    store.record_failure("read", NOON - 7)
    assert correct_moments(tmp_path, NOON)
    facts = store.facts()
    assert NOON - 1 < facts.trained_at < facts.failed_at["refit"] < facts.train_asked_at < NOON
    assert (facts.decoded_at, facts.failed_at["read"]) == (NOON - 5, NOON - 7)


def test_a_small_difference_between_clocks_changes_nothing(
    store: ProjectStore, tmp_path: Path
) -> None:
    read(store, NOON + 9, "img-0")
    assert not correct_moments(tmp_path, NOON)
    assert store.facts().full_read_at == NOON + 9


def test_everything_is_read_again_and_deleted_tasks_are_found(
    store: ProjectStore, tmp_path: Path
) -> None:
    read(store, AN_HOUR_LATER, "img-0", "img-1")
    assert correct_moments(tmp_path, NOON)
    assert store.facts().full_read_at == 0
    assert NOON - 1 < store.facts().read_at < NOON
    read(store, NOON, "img-0")
    assert store.n_tasks() == 1
    assert store.facts().full_read_at == NOON


def test_the_wait_for_training_begins_when_the_clock_was_set_back(
    store: ProjectStore, tmp_path: Path
) -> None:
    read(store, AN_HOUR_LATER, "img-0")
    assert store.new_annotations() == (1, AN_HOUR_LATER)
    assert correct_moments(tmp_path, NOON)
    n_new, first_at = store.new_annotations()
    assert n_new == 1
    assert first_at is not None
    assert NOON - 1 < first_at < NOON


def test_a_change_after_label_studios_clock_was_set_back_is_recorded(store: ProjectStore) -> None:
    in_2023 = 1_700_000_000.0  # 2023-11-14T22:13:20Z
    read(store, in_2023, "img-0", updated_at="2023-11-14T23:13:00.000000Z")
    task = Task(1, "img-0", is_open=True, awaits_second_opinion=False)
    store.record_tasks([TaskReading(task, "2023-11-14T22:13:19.000000Z", (), None)], in_2023)
    assert store.counts().annotations == 0


def test_a_change_before_label_studios_clock_was_set_right_again_is_recorded(
    store: ProjectStore,
) -> None:
    in_2023, a_day = 1_700_000_000.0, 86_400.0  # 2023-11-14T22:13:20Z
    read(store, in_2023 + a_day, "img-0", updated_at="2023-11-15T22:13:00.000000Z")
    read(store, in_2023, "img-0", updated_at="2023-11-15T22:13:00.000000Z")  # set back by a day
    task = Task(1, "img-0", is_open=True, awaits_second_opinion=False)
    changed = TaskReading(task, "2023-11-14T22:13:40.000000Z", (), None)
    store.record_tasks([changed], in_2023 + a_day + 60)
    assert store.counts().annotations == 0
