"""Import predictions, and check the order in which annotators get the tasks."""

from __future__ import annotations

from itertools import pairwise

import httpx
import numpy as np
import pytest

from backend.asking.query import Candidates, select
from backend.base.errors import LabelStudioError
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.rows import prediction_result
from backend.rounds.ordering import without_guess
from tests.integration.labelstudio.annotating import guess, import_images, new_task, served_order


def test_annotators_get_the_least_confident_first_and_the_new_order_after_a_switch(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    scores = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.4}
    ids = import_images(project, *(new_task(i, guess(score)) for i, score in scores.items()))
    assert project.model_version() == "r0001"
    assert served_order(api, project, 1) == ["b"]

    rescored = {ids["a"]: 0.9, ids["c"]: 0.8, ids["d"]: 0.7}
    predictions = {task_id: guess(score, "r0002") for task_id, score in rescored.items()}
    assert project.import_predictions(predictions) == 3
    project.switch_model_version("r0002")
    assert served_order(api, project, 3) == ["d", "c", "a"]
    assert sorted(project.model_versions()) == ["r0001", "r0002"]
    project.delete_predictions("r0001")
    project.delete_predictions("r0001")
    assert project.model_versions() == ["r0002"]
    assert {
        prediction["model_version"]
        for task_id in rescored
        for prediction in api.get("/api/predictions/", params={"task": task_id}).json()
    } == {"r0002"}


def test_a_task_without_a_guess_comes_first_also_after_a_new_order(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(
        project,
        new_task("sure", guess(0.9)),
        new_task("unsure", guess(0.1)),
        new_task("held-out", without_guess("r0001")),
        new_task("held-out-too", without_guess("r0001")),
    )
    [kept] = api.get("/api/predictions/", params={"task": ids["held-out"]}).json()
    assert (kept["result"], kept["score"], kept["model_version"]) == ([], 0.0, "r0001")
    assert served_order(api, project, 1)[0].startswith("held-out")

    rescored = {ids["sure"]: guess(0.2, "r0002"), ids["unsure"]: guess(0.3, "r0002")}
    [left] = {ids["held-out"], ids["held-out-too"]} & {t.task_id for t in project.open_tasks()}
    assert project.import_predictions({**rescored, left: without_guess("r0002")}) == 3
    project.switch_model_version("r0002")
    order = served_order(api, project, 3)
    assert order[0].startswith("held-out")
    assert order[1:] == ["sure", "unsure"]


def test_annotators_get_a_diverse_set_with_no_two_similar_images_in_a_row(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    # Three scenes, four nearly identical images of each, all equally uncertain.
    image_ids = [f"{scene}{number}" for scene in "abc" for number in range(4)]
    corners = np.repeat(10 * np.eye(3, dtype=np.float32), 4, axis=0)
    near = np.random.default_rng(0).normal(0, 0.2, corners.shape).astype(np.float32)
    known = Candidates(image_ids, np.full((12, 2), 0.5, np.float32), corners + near)
    query = select("uncertain_clusters", known, 12, np.random.default_rng(0))
    chosen = zip(query.image_ids, query.confidences, strict=True)
    # The tasks are imported in another order, so that only the score can explain the order served.
    import_images(project, *(new_task(i, guess(float(s))) for i, s in sorted(chosen)))
    served = served_order(api, project, 12)
    assert served == list(query.image_ids)
    assert all(first[0] != second[0] for first, second in pairwise(served))


def test_open_tasks_list_every_version_that_predicted_them(
    project: ProjectSetup,
) -> None:
    ids = import_images(project, new_task("a", guess(0.25)))
    for version in ("r0002", "r0003"):
        project.import_predictions({ids["a"]: guess(0.25, version)})
    for version in ("r0001", "r0002", "r0003"):
        assert project.predicted_by(version, ids.values()) == {ids["a"]}


def test_a_prediction_has_a_probability_and_a_confidence(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, new_task("a", guess(0.25, label="dog")))
    [kept] = api.get("/api/predictions/", params={"task": ids["a"]}).json()
    assert kept["score"] == 0.25
    assert kept["result"] == prediction_result(project.label_config(), "dog", 0.75)


def test_predictions_that_include_a_deleted_task_are_refused_as_a_whole(
    project: ProjectSetup,
) -> None:
    ids = import_images(project, new_task("a"), new_task("gone"))
    project.delete_tasks([ids["gone"]])
    with pytest.raises(LabelStudioError, match="answered 400"):
        project.import_predictions({task_id: guess(0.5) for task_id in ids.values()})
    assert project.model_versions() == []


def test_switching_to_a_version_without_predictions_is_an_error(
    project: ProjectSetup,
) -> None:
    with pytest.raises(LabelStudioError, match="Model version"):
        project.switch_model_version("r0009")


def test_labeling_blind_hides_guesses_and_keeps_the_order(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, *(new_task(i, guess(s)) for i, s in (("a", 0.2), ("b", 0.1))))
    project.configure(is_blind=False)
    assert project.configure(is_blind=True)
    assert not project.configure(is_blind=True)
    settings = api.get(f"/api/projects/{project.project_id}/").json()
    assert settings["show_collab_predictions"] is False
    assert project.model_version() == "r0001"

    project.import_predictions({ids["a"]: guess(0.1, "r0002"), ids["b"]: guess(0.2, "r0002")})
    project.switch_model_version("r0002")
    assert served_order(api, project, 2) == ["a", "b"]
    assert project.configure(is_blind=False)
    assert project.model_version() == "r0002"


def test_predictions_that_a_person_deletes_in_the_data_manager_are_missed(
    project: ProjectSetup, api: httpx.Client
) -> None:
    import_images(project, new_task("a", guess(0.1)))
    assert project.task_order().has_predictions
    api.post(
        "/api/dm/actions/",
        params={"id": "delete_tasks_predictions", "project": project.project_id},
        json={"selectedItems": {"all": True, "excluded": []}},
    ).raise_for_status()
    assert not project.task_order().has_predictions
