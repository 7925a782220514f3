"""Tasks and annotations of a project: importing, reading, reopening, deleting."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx

from backend.base.labeling import NewTask, ProjectCounts, TaskImage
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.rows import prediction_result
from scripts.research.accounts import invite_link, log_in, sign_up
from tests.integration.labelstudio.annotating import annotate, guess, import_images, new_task
from tests.patience import PATIENCE_S


def test_a_task_is_open_until_it_is_annotated_or_skipped(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(
        project, *map(new_task, ["open", "submitted", "empty", "skipped", "reopened"])
    )
    annotate(api, project, ids["submitted"], "cat")
    annotate(api, project, ids["empty"], None)
    annotate(api, project, ids["skipped"], None, was_cancelled=True)
    deleted = annotate(api, project, ids["reopened"], "dog")
    api.delete(f"/api/annotations/{deleted}/").raise_for_status()

    assert {t.image_id for t in project.tasks() if t.is_open} == {"open", "reopened"}
    assert project.counts() == ProjectCounts(tasks=5, annotations=2, skipped=1, open=2)


def test_open_tasks_are_neither_annotated_nor_skipped(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, *(new_task(i) for i in "abc"), new_task("seed", label="dog"))
    annotate(api, project, ids["a"], "cat")
    annotate(api, project, ids["b"], None, was_cancelled=True)
    open_ids = [task.task_id for task in project.tasks() if task.is_open]
    assert [task.task_id for task in project.open_tasks()] == open_ids
    assert [task.image_id for task in project.open_tasks()] == ["c"]


def test_annotations_name_the_annotator_and_tell_skipped_from_empty(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, *map(new_task, ["submitted", "empty", "skipped", "open"]))
    me = api.get("/api/current-user/whoami").raise_for_status().json()["id"]
    submitted = annotate(api, project, ids["submitted"], "dog")
    annotate(api, project, ids["empty"], None)
    annotate(api, project, ids["skipped"], None, was_cancelled=True)

    found = project.annotations()
    [annotation] = found[ids["submitted"]]
    assert annotation.annotation_id == submitted
    assert annotation.image_id == "submitted"
    assert annotation.annotator == me
    assert annotation.label == "dog"
    [empty], [skipped] = found[ids["empty"]], found[ids["skipped"]]
    assert (empty.label, empty.was_skipped) == (None, False)
    assert (skipped.label, skipped.was_skipped) == (None, True)
    assert found[ids["open"]] == []


def test_annotations_say_if_the_guess_was_accepted_and_seeds_have_no_annotator(
    project: ProjectSetup, api: httpx.Client
) -> None:
    sound, broken = [0.25, 0.75], [0.25, 0.75, "much"]
    tasks = [
        NewTask(i, {"image": "data:image/png;base64,", "image_id": i, "asked_probs": probs})
        for i, probs in (("accepted", sound), ("changed", broken))
    ]
    seed = NewTask("seed", {"image_id": "seed", "image": "x", "asked_by": "seed"}, label="cat")
    ids = import_images(project, *tasks, seed)
    [region] = prediction_result(project.label_config(), "dog")
    for image_id, origin in (("accepted", "prediction"), ("changed", "prediction-changed")):
        body = {"result": [{**region, "origin": origin}], "lead_time": 2.5}
        api.post(f"/api/tasks/{ids[image_id]}/annotations/", json=body).raise_for_status()
    annotate(api, project, ids["seed"], "dog", ground_truth=True)

    found = project.annotations()
    [accepted], [changed] = found[ids["accepted"]], found[ids["changed"]]
    assert (accepted.accepted_guess, changed.accepted_guess) == (True, False)
    assert accepted.seconds == 2.5
    asked = {task.task.task_id: task.asked for task in project.read_tasks()}
    of_accepted, of_changed = asked[ids["accepted"]], asked[ids["changed"]]
    assert of_accepted is not None
    assert (of_accepted.probs, of_changed) == ((0.25, 0.75), None)
    assert asked[ids["seed"]] is None
    data_sets, corrected = sorted(found[ids["seed"]], key=lambda a: a.annotation_id)
    assert (data_sets.annotator, data_sets.label, data_sets.is_ground_truth) == (None, "cat", False)
    assert corrected.annotator == accepted.annotator
    assert (corrected.label, corrected.is_ground_truth) == ("dog", True)


def test_a_reopened_task_is_served_to_another_annotator_until_they_annotate_it(
    project: ProjectSetup, api: httpx.Client, credentials: tuple[str, str]
) -> None:
    url, token = credentials
    assert sign_up(url, invite_link(url, token), "second@example.org").status_code == 302
    second_id, second_token = log_in(url, "second@example.org")
    ids = import_images(project, new_task("a", guess(0.1)), new_task("b", guess(0.2)))
    for task_id in ids.values():
        annotate(api, project, task_id, "cat")
    assert project.open_tasks() == []

    project.reopen(ids["b"], n_annotators=2)

    [again] = project.open_tasks()
    assert (again.task_id, again.is_open, again.awaits_second_opinion) == (ids["b"], False, True)
    path = f"/api/projects/{project.project_id}/next"
    assert api.get(path).status_code == 404  # the first annotator gets nothing
    headers = {"Authorization": f"Token {second_token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as second:
        assert second.get(path).raise_for_status().json()["id"] == ids["b"]
        annotate(second, project, ids["b"], "dog")
        assert second.get(path).status_code == 404
    assert project.open_tasks() == []
    assert {a.annotator for a in project.annotations()[ids["b"]]} > {second_id}
    assert project.annotator_names()[second_id] == "second@example.org"


def test_all_versions_of_a_task_with_many_predictions_are_found(project: ProjectSetup) -> None:
    ids = import_images(project, *map(new_task, "ab"))
    versions = [f"r0001h{number:02}" for number in range(1, 61)]
    for version in versions:  # Label Studio lists about 40 of them
        project.import_predictions({ids["a"]: guess(0.5, version)})
    for version in versions:
        assert project.predicted_by(version, ids.values()) == {ids["a"]}
    for version in ("r0001", "r0001h0", "r0001h61"):
        assert project.predicted_by(version, ids.values()) == set()


def test_only_tasks_that_changed_are_read_again(project: ProjectSetup, api: httpx.Client) -> None:
    ids = import_images(project, *map(new_task, ["untouched", "edited", "emptied"]))
    for image_id in ids:
        annotate(api, project, ids[image_id], "cat")
    before = project.annotations()
    [edited], [emptied] = before[ids["edited"]], before[ids["emptied"]]
    moment = datetime.now(UTC)  # the server runs on this machine and has the same clock
    dog = prediction_result(project.label_config(), "dog")
    api.patch(f"/api/annotations/{edited.annotation_id}/", json={"result": dog}).raise_for_status()
    api.delete(f"/api/annotations/{emptied.annotation_id}/").raise_for_status()

    changed = project.read_tasks(changed_after=moment)
    assert {found.task.task_id: [a.label for a in found.annotations] for found in changed} == {
        ids["edited"]: ["dog"],
        ids["emptied"]: [],
    }


def test_seed_labels_are_imported_as_annotated_tasks(project: ProjectSetup) -> None:
    import_images(project, new_task("seed", label="dog"), new_task("asked", guess(0.4)))
    [task] = project.open_tasks()
    assert (task.image_id, task.is_open) == ("asked", True)
    assert project.predicted_by("r0001", [task.task_id]) == {task.task_id}
    [seed] = [a for of_task in project.annotations().values() for a in of_task]
    assert (seed.image_id, seed.label, seed.was_skipped) == ("seed", "dog", False)
    assert project.counts() == ProjectCounts(tasks=2, annotations=1, skipped=0, open=1)


def test_more_tasks_than_fit_on_one_page_are_all_read_once(project: ProjectSetup) -> None:
    image_ids = [f"image {i}" for i in range(1001)]
    assert project.import_tasks([new_task(image_id) for image_id in image_ids]) == 1001
    assert [task.image_id for task in project.tasks()] == image_ids
    assert len(project.annotations()) == 1001


def test_deleting_no_tasks_deletes_none(project: ProjectSetup) -> None:
    ids = import_images(project, new_task("kept"), new_task("deleted"))
    project.delete_tasks([])
    assert len(project.tasks()) == 2
    project.delete_tasks([ids["deleted"]])
    assert project.image_ids() == {"kept"}


def test_a_task_imported_by_hand_without_our_data_is_also_read(
    project: ProjectSetup, api: httpx.Client
) -> None:
    path = f"/api/projects/{project.project_id}/import"
    api.post(path, json=[{"data": {"image": "data:,"}}]).raise_for_status()
    [task] = project.tasks()
    assert task.image_id == ""
    assert project.image_ids() == set()


def test_uploads_make_no_task_and_can_be_read(project: ProjectSetup, api: httpx.Client) -> None:
    images = {
        f"{number:016x}": TaskImage(b"\xff\xd8" + bytes([number]), "image/jpeg")
        for number in range(100)
    }

    shown = project.upload(images)

    assert list(shown) == list(images)
    assert project.n_tasks() == 0
    assert all(api.get(shown[i]).content == image.content for i, image in images.items())
