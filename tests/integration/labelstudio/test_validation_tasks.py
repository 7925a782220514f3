"""Serve tasks of the validation sample: first, without a guess, to one person and to two."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from backend.base.labeling import Prediction
from backend.labelstudio.project_setup import ProjectSetup
from tests.integration.labelstudio.annotating import (
    annotate,
    guess,
    import_images,
    new_task,
    served_order,
)
from tests.integration.people import invite_link, log_in, sign_up
from tests.patience import PATIENCE_S


def no_guess(version: str) -> Prediction:
    return Prediction(label=None, probability=None, score=0.0, model_version=version)


def served(api: httpx.Client, project: ProjectSetup) -> str | None:
    """Return the image that the annotator gets next."""
    answer = api.get(f"/api/projects/{project.project_id}/next")
    if answer.status_code == 404:
        return None
    return str(answer.raise_for_status().json()["data"]["image_id"])


@pytest.fixture
def second(credentials: tuple[str, str], api: httpx.Client) -> Iterator[httpx.Client]:
    """A client of a second annotator, whose account is deleted in the end."""
    url, token = credentials
    email = "validator@example.org"
    assert sign_up(url, invite_link(url, token), email).status_code == 302
    user_id, second_token = log_in(url, email)
    headers = {"Authorization": f"Token {second_token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
        yield client
    api.delete(f"/api/users/{user_id}/").raise_for_status()


def test_a_task_without_a_guess_comes_first_also_after_a_new_order(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(
        project,
        new_task("sure", guess(0.9)),
        new_task("unsure", guess(0.1)),
        new_task("held-out", no_guess("r0001")),
        new_task("held-out-too", no_guess("r0001")),
    )
    [kept] = api.get("/api/predictions/", params={"task": ids["held-out"]}).json()
    assert (kept["result"], kept["score"], kept["model_version"]) == ([], 0.0, "r0001")
    assert served_order(api, project, 1)[0].startswith("held-out")

    rescored = {ids["sure"]: guess(0.2, "r0002"), ids["unsure"]: guess(0.3, "r0002")}
    [left] = {ids["held-out"], ids["held-out-too"]} & {t.task_id for t in project.open_tasks()}
    assert project.import_predictions({**rescored, left: no_guess("r0002")}) == 3
    project.switch_model_version("r0002")
    order = served_order(api, project, 3)
    assert order[0].startswith("held-out")
    assert order[1:] == ["sure", "unsure"]


def test_a_skipped_task_is_served_once_more_after_its_skip_is_deleted(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, new_task("held-out", no_guess("r0001")))
    assert served(api, project) == "held-out"
    skip = annotate(api, project, ids["held-out"], None, was_cancelled=True)
    assert served(api, project) is None
    assert project.open_tasks() == []
    [skipped] = project.open_tasks(skipped={ids["held-out"]})
    assert (skipped.is_open, skipped.awaits_second_opinion) == (False, False)

    project.delete_annotation(skip)
    project.delete_annotation(skip)  # ignored: it is gone
    [again] = project.open_tasks()
    assert again.is_open
    assert again.versions == {"r0001"}
    assert served(api, project) == "held-out"
    annotate(api, project, ids["held-out"], "cat")
    assert project.open_tasks() == []


def test_a_new_task_that_is_opened_for_two_closes_after_two_annotators(
    project: ProjectSetup, api: httpx.Client, second: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, new_task("held-out", no_guess("r0001")))
    task_id = ids["held-out"]
    project.reopen(task_id, 2)
    [new] = project.open_tasks()
    assert (new.is_open, new.awaits_second_opinion) == (True, False)
    assert served(api, project) == "held-out"
    assert served(second, project) == "held-out"  # although the first annotator has it open

    annotate(api, project, task_id, "cat")
    assert served(api, project) is None
    [waiting] = project.open_tasks()
    assert (waiting.is_open, waiting.awaits_second_opinion) == (False, True)
    annotate(second, project, task_id, "dog")
    assert served(second, project) is None
    assert project.open_tasks() == []

    project.reopen(task_id, 3)
    assert served(api, project) is None
    assert served(second, project) is None
    [third] = project.open_tasks()
    assert third.awaits_second_opinion


def test_a_task_for_two_that_one_person_skipped_is_served_to_the_other(
    project: ProjectSetup, api: httpx.Client, second: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, new_task("held-out", no_guess("r0001")))
    project.reopen(ids["held-out"], 2)
    annotate(api, project, ids["held-out"], None, was_cancelled=True)
    assert served(api, project) is None
    assert served(second, project) == "held-out"
    annotate(second, project, ids["held-out"], "cat")
    assert [a.label for a in project.annotations()[ids["held-out"]]] == [None, "cat"]
    [waiting] = project.open_tasks()  # for anyone who has not seen it
    assert waiting.awaits_second_opinion
