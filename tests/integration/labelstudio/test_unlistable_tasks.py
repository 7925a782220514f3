"""Read tasks that Label Studio cannot list, because programs sent it impossible numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from backend.base.errors import LabelStudioError
from backend.labelstudio.project import CLOCK_SKEW
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.rows import prediction_result
from tests.integration.labelstudio.annotating import annotate, guess, import_images, new_task


@pytest.fixture
def ids(project: ProjectSetup) -> dict[str, int]:
    """Import five tasks, each with the predictions of two versions; return their ids."""
    ids = import_images(project, *(new_task(i, guess(0.5)) for i in "abcde"))
    project.import_predictions({task_id: guess(0.4, "r0002") for task_id in ids.values()})
    return ids


def annotate_in(api: httpx.Client, project: ProjectSetup, task_id: int, lead_time: str) -> None:
    """Annotate a task with a lead time, which may be any text; ignore Label Studio's error."""
    result = json.dumps(prediction_result(project.label_config(), "cat"))
    path = f"/api/tasks/{task_id}/annotations/"
    body = f'{{"result": {result}, "lead_time": {lead_time}}}'
    assert api.post(path, content=body, headers=JSON).status_code in (201, 500)


JSON = {"Content-Type": "application/json"}


def labels(project: ProjectSetup, since: datetime | None = None) -> dict[int, list[str | None]]:
    """Return the labels of all tasks, or of the tasks that changed after a moment."""
    return {t.task.task_id: [a.label for a in t.annotations] for t in project.read_tasks(since)}


@pytest.mark.parametrize("lead_time", ["1e308", "-1e308", "1e309", '"NaN"', '"-Infinity"'])
def test_an_annotation_with_an_impossible_lead_time_is_read_like_any_other(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int], lead_time: str
) -> None:
    annotate(api, project, ids["a"], "dog", lead_time=4.5)
    annotate_in(api, project, ids["b"], lead_time)
    assert api.get(f"/api/tasks/{ids['b']}/").status_code == 500

    expected = {ids["a"]: ["dog"], ids["b"]: ["cat"], **{ids[i]: [] for i in "cde"}}
    assert labels(project) == expected
    assert labels(project) == expected  # the task is known now
    [[ordinary], [impossible]] = [project.annotations()[ids[i]] for i in "ab"]
    assert (ordinary.seconds, impossible.seconds) == (4.5, math.inf)
    assert [task.image_id for task in project.open_tasks()] == ["c", "d", "e"]
    for version in ("r0001", "r0002"):
        assert project.predicted_by(version, ids.values()) >= {ids[i] for i in "cde"}
    assert [task.image_id for task in project.tasks()] == ["a", "b", "c", "d", "e"]
    assert project.counts().tasks == project.n_tasks() == 5
    assert [*project.annotations_of("b")] == [ids["b"]]


def test_a_task_with_an_impossible_lead_time_can_be_opened_to_another_annotator(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    annotate_in(api, project, ids["a"], "1e308")
    annotate_in(api, project, ids["b"], "1e309")
    for image_id in "ab":
        project.reopen(ids[image_id], 2)
    again = [task.image_id for task in project.open_tasks() if task.awaits_second_opinion]
    assert again == ["a", "b"]


def test_changes_of_a_task_with_an_impossible_lead_time_are_read(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    annotate_in(api, project, ids["a"], '"NaN"')
    labels(project)
    moment = datetime.now(UTC)  # the server runs on this machine and has the same clock
    assert labels(project, moment) == {}
    annotate(api, project, ids["a"], "dog")
    assert labels(project, moment) == {ids["a"]: ["cat", "dog"]}


def remove_the_time(api: httpx.Client, project: ProjectSetup, task_id: int) -> None:  # noqa: ARG001
    [made] = project.annotations()[task_id]
    project.remove_lead_time(made.annotation_id)


def delete_annotation(api: httpx.Client, project: ProjectSetup, task_id: int) -> None:
    [made] = project.annotations()[task_id]
    api.delete(f"/api/annotations/{made.annotation_id}/").raise_for_status()


def delete_in_the_data_manager(api: httpx.Client, project: ProjectSetup, task_id: int) -> None:
    """Tick the task, and choose Delete Annotations."""
    path = f"/api/dm/actions/?id=delete_tasks_annotations&project={project.project_id}"
    chosen = {"selectedItems": {"all": False, "included": [task_id]}}
    api.post(path, json=chosen).raise_for_status()


@pytest.mark.parametrize(
    ("repair", "left"),
    [(remove_the_time, ["cat"]), (delete_annotation, []), (delete_in_the_data_manager, [])],
)
@pytest.mark.parametrize("lead_time", ["1e308", "1e309"])
def test_a_repaired_task_can_be_opened_and_is_noticed(
    project: ProjectSetup,
    api: httpx.Client,
    ids: dict[str, int],
    lead_time: str,
    repair: Callable[[httpx.Client, ProjectSetup, int], None],
    left: list[str],
) -> None:
    annotate_in(api, project, ids["a"], lead_time)
    labels(project)
    moment = datetime.now(UTC) - CLOCK_SKEW
    repair(api, project, ids["a"])
    assert api.get(f"/api/tasks/{ids['a']}/").status_code == 200
    assert labels(project, moment)[ids["a"]] == left
    assert all(a.seconds != math.inf for a in project.annotations()[ids["a"]])


def test_a_task_whose_data_is_a_list_is_left_out_until_it_is_deleted(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    annotate(api, project, ids["a"], "dog")
    annotate(api, project, ids["b"], "cat")
    assert api.patch(f"/api/tasks/{ids['b']}/", json={"data": [1]}).status_code == 500
    tasks = f"/api/tasks?project={project.project_id}"
    assert api.get(tasks).status_code == 500  # not even the Data Manager lists the project's tasks

    for _ in range(2):
        assert labels(project) == {ids[i]: [] for i in "cde"} | {ids["a"]: ["dog"]}
    assert [task.image_id for task in project.open_tasks()] == ["c", "d", "e"]
    assert project.counts().open == 3
    assert project.n_tasks() == 5
    project.reopen(ids["b"], 2)  # does nothing

    # Label Studio removes the task, but fails to update its summary of the project.
    with pytest.raises(LabelStudioError):
        project.delete_tasks([ids["b"]])
    assert api.get(tasks).status_code == 200
    assert labels(project) == {ids[i]: [] for i in "cde"} | {ids["a"]: ["dog"]}
    assert project.n_tasks() == 4


def test_predictions_with_impossible_scores_do_not_hide_annotations(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    annotate(api, project, ids["a"], "dog")
    result = json.dumps(prediction_result(project.label_config(), "cat"))
    for image_id, score in (("a", "1e308"), ("b", "1e308"), ("c", "1e309"), ("d", '"NaN"')):
        for version in ("theirs", "others"):
            prediction = f'{{"task": {ids[image_id]}, "result": {result}, "score": {score}, '
            body = f'{prediction}"model_version": "{version}"}}'
            made = api.post("/api/predictions/", content=body, headers=JSON)
            assert made.status_code in (201, 500)

    assert labels(project) == {ids[i]: [] for i in "bcde"} | {ids["a"]: ["dog"]}
    assert [task.image_id for task in project.open_tasks()] == [*"bcde"]
    unlabeled = [ids[i] for i in "bcde"]
    for version, image_ids in (("r0001", "bcde"), ("r0002", "bcde"), ("theirs", "bcd")):
        assert project.predicted_by(version, unlabeled) == {ids[i] for i in image_ids}
