"""Explain which tasks Label Studio cannot list."""

from __future__ import annotations

from pathlib import Path

from backend.base.labeling import IMPOSSIBLE_S, Annotation, Task, TaskReading
from backend.rounds.listing_problem import listing_notices
from backend.store.project_store import ProjectStore


def record_impossible_times(store: ProjectStore, *task_ids: int) -> None:
    """Record tasks with one annotation each, whose id is 726 more."""
    readings = []
    for task_id in task_ids:
        made = Annotation(task_id + 726, task_id, "img", 2, "cat", False, "", seconds=IMPOSSIBLE_S)
        task = Task(task_id, "img", is_open=False, awaits_second_opinion=False)
        readings.append(TaskReading(task, "2026-01-01", (made,), None))
    store.record_tasks(readings, 10.0)


def test_a_project_whose_tasks_can_be_listed_has_no_notice(tmp_path: Path) -> None:
    assert listing_notices(ProjectStore(tmp_path), 7) == []


def test_an_impossible_lead_time_names_the_annotation_and_the_command(tmp_path: Path) -> None:
    store = ProjectStore(tmp_path)
    record_impossible_times(store, 508)
    assert listing_notices(store, 7) == [
        "Label Studio cannot open task 508 (it answers 500), because of impossible lead "
        "times, for example of annotation 1234. The annotations count nevertheless. To remove the "
        "lead times and keep the annotations, run `python -m scripts.repair_tasks --project 7`."
    ]


def test_several_tasks_are_one_sentence_with_the_first_and_the_count(tmp_path: Path) -> None:
    store = ProjectStore(tmp_path)
    record_impossible_times(store, 508, 509)
    store.record(unlisted_tasks=[12, 13, 14])
    times, unlisted = listing_notices(store, 7)
    assert "cannot open task 508 and 1 other task (it answers 500)" in times
    assert "cannot list task 12 and 2 other tasks (it answers 500)" in unlisted
    assert unlisted.endswith("run `python -m scripts.repair_tasks --project 7 --delete`.")
