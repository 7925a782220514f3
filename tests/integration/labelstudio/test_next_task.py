"""Check which task Label Studio serves next if only some open tasks have predictions.

An attached project relies on these rules (`projects/functions/next_task.py` in Label Studio).
"""

from __future__ import annotations

import httpx
import pytest

from backend.base.labeling import TaskOrder
from backend.labelstudio.project_setup import ProjectSetup
from backend.rounds.ordering import without_guess
from tests.integration.labelstudio.annotating import (
    annotate,
    guess,
    import_images,
    new_task,
    served,
    served_order,
)

OTHERS = ("e", "f", "g", "h", "i", "j")


@pytest.fixture
def ids(project: ProjectSetup) -> dict[str, int]:
    """Ten tasks, of which only a, b, c and d have predictions; all are ordered by confidence."""
    project.configure(is_blind=False)
    ids = import_images(project, *map(new_task, [*OTHERS, "d", "c", "b", "a"]))
    scores = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    project.import_predictions({ids[i]: guess(score) for i, score in scores.items()})
    project.switch_model_version("r0001")
    return ids


@pytest.mark.usefixtures("ids")
def test_tasks_with_predictions_come_first_and_then_any_other(
    project: ProjectSetup, api: httpx.Client
) -> None:
    order = served_order(api, project, 10)
    assert order[:4] == ["a", "b", "c", "d"]
    assert set(order[4:]) == {*OTHERS}


def test_a_skipped_task_makes_room_for_the_next_prediction(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    annotate(api, project, ids["a"], None, was_cancelled=True)
    assert served(api, project) == "b"


def test_a_person_gets_nothing_while_others_have_all_predicted_tasks_open(
    project: ProjectSetup, api: httpx.Client, second: httpx.Client, ids: dict[str, int]
) -> None:
    for image_id in ("a", "b", "c"):
        annotate(api, project, ids[image_id], "cat")
    assert served(api, project) == "d"
    # Although six other tasks are open. Therefore, several images per person have predictions.
    assert served(second, project) is None
    annotate(api, project, ids["d"], "cat")
    assert served(second, project) in OTHERS


def test_only_predictions_of_the_projects_model_version_count(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    # The team's predictions, and those of our next version before the switch.
    project.import_predictions({ids[i]: guess(0.01, "team-v3") for i in OTHERS})
    project.import_predictions({ids["d"]: guess(0.01, "r0002")})
    assert served_order(api, project, 2) == ["a", "b"]
    project.switch_model_version("r0002")
    assert served_order(api, project, 1) == ["d"]


def test_images_of_a_first_batch_without_a_guess_come_in_the_order_of_their_scores(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, *map(new_task, "abcd"))
    project.import_predictions({ids["c"]: without_guess("r0000")})
    project.switch_model_version("r0000")
    assert served_order(api, project, 1) == ["c"]


def test_hiding_predictions_clears_the_model_version_and_with_it_the_order(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    path = f"/api/projects/{project.project_id}/"
    assert project.task_order() == TaskOrder(is_by_confidence=True, model_version="r0001")
    api.patch(path, json={"show_collab_predictions": False}).raise_for_status()
    assert project.task_order().model_version == ""
    project.switch_model_version("r0001")  # brings the order back, and the guesses stay hidden
    assert served(api, project) == "a"
    assert api.get(f"/api/tasks/{ids['a']}/").json()["predictions"] != []
    task = api.get(f"/api/projects/{project.project_id}/next").json()
    assert task["predictions"] == []


def test_another_sampling_ignores_predictions(
    project: ProjectSetup, api: httpx.Client, ids: dict[str, int]
) -> None:
    path = f"/api/projects/{project.project_id}/"
    api.patch(path, json={"sampling": "Sequential sampling"}).raise_for_status()
    assert not project.task_order().is_by_confidence
    assert served(api, project) == min(ids, key=lambda image_id: ids[image_id])


def test_a_project_that_asks_for_two_annotations_finishes_started_tasks_first(
    project: ProjectSetup, api: httpx.Client, second: httpx.Client, ids: dict[str, int]
) -> None:
    path = f"/api/projects/{project.project_id}/"
    api.patch(path, json={"maximum_annotations": 2}).raise_for_status()
    assert project.task_order().annotations_per_task == 2
    annotate(api, project, ids["j"], "cat")  # without a prediction
    assert served(second, project) == "j"
    annotate(second, project, ids["j"], "cat")
    assert served(api, project) in {"a", "b", "c", "d"}
