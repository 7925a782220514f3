"""Run the loop although Label Studio cannot list some of the tasks."""

from __future__ import annotations

import json

import pytest

from backend.base.labeling import Prediction
from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.rows import prediction_result
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.workers import jobs
from tests.integration.conftest import Stack
from tests.integration.people import Person, pool_of
from tests.patience import wait_for


@pytest.fixture
def impossible(stack: Stack, person: Person, project: LabelStudioProject) -> list[int]:
    """Annotate two tasks correctly, with impossible lead times; return their ids."""
    truth, config = true_labels(pool_of(stack)), project.label_config()
    wait_for(lambda: project.counts().open >= 2, "open tasks")
    tasks = project.open_tasks()[:2]
    # With a second prediction, Label Studio's average of the lead times overflows.
    other = Prediction(config.choices[0], probability=0.5, score=0.5, model_version="other")
    project.import_predictions({task.task_id: other for task in tasks})
    for task, lead_time in zip(tasks, ("1e308", "1e309"), strict=True):
        result = json.dumps(prediction_result(config, truth[task.image_id]))
        body = f'{{"result": {result}, "lead_time": {lead_time}}}'
        path, kind = f"/api/tasks/{task.task_id}/annotations/", "application/json"
        person.http.post(path, content=body, headers={"Content-Type": kind})
        assert person.http.get(f"/api/tasks/{task.task_id}/").status_code == 500
    return [task.task_id for task in tasks]


def notices(person: Person) -> str:
    return " ".join(person.status()["notices"])


def test_annotations_with_impossible_lead_times_are_learned_and_a_command_repairs_their_tasks(
    stack: Stack,
    person: Person,
    project: LabelStudioProject,
    impossible: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_labels = project.counts().annotations
    wait_for(lambda: person.status()["annotations"] == n_labels, "both annotations counted")
    assert f"cannot open task {impossible[0]} and 1 other task" in notices(person)

    # The stack's ranker fits no heads, so this test does the ranker's job.
    both = stack.settings.model_copy(update={"train": "both"})
    monkeypatch.setattr(jobs, "load_settings", lambda: both)
    registry = Registry(project_root(stack.settings.model_dir, project.project_id))

    def has_head() -> bool:
        jobs.rank(project.project_id)
        return any(meta.is_head and meta.labels == n_labels for meta in registry.versions()[0])

    wait_for(has_head, "a head fitted to both annotations")
    round_ = person.status()["round"]
    person.start_training()
    trained = person.wait_for_rest(round_ + 1)
    # More images may have been queried meanwhile, but nobody has labeled them.
    full = [meta for meta in registry.versions()[0] if not meta.is_head]
    assert full[-1].labels == n_labels
    assert trained["errors"] == []

    project_id = str(project.project_id)
    mended = stack.run("scripts.repair_tasks", "--project", project_id)
    assert (mended.returncode, mended.stdout) == (0, "2 impossible lead times removed\n")
    assert "cannot open task" not in notices(person)
    for task_id in impossible:
        assert person.http.get(f"/api/tasks/{task_id}/").status_code == 200
    assert person.status()["annotations"] == n_labels


def test_the_annotation_of_a_task_that_cannot_be_listed_counts_until_a_command_deletes_the_task(
    stack: Stack, person: Person, project: LabelStudioProject
) -> None:
    wait_for(lambda: project.counts().open >= 2, "open tasks")
    broken, other = (task.task_id for task in project.open_tasks()[:2])
    config = project.label_config()
    person.submit(broken, config.choices[0], config)
    before = project.counts().annotations
    wait_for(lambda: person.status()["annotations"] == before, "the annotation counted")
    person.http.patch(f"/api/tasks/{broken}/", json={"data": [1]})
    wait_for(lambda: f"cannot list task {broken}" in notices(person), "a notice")

    person.submit(other, config.choices[0], config)
    wait_for(lambda: person.status()["annotations"] == before + 1, "the next annotation counted")

    project_id = str(project.project_id)
    mended = stack.run("scripts.repair_tasks", "--project", project_id, "--delete")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout == f"0 impossible lead times removed\ndeleted tasks: {broken}\n"
    assert "cannot list" not in notices(person)
    assert person.status()["annotations"] == before
