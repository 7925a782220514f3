"""The Label Studio edge against a real server, in projects of its own; and set-up a second time."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.asking.query import Candidates, select
from backend.base.errors import LabelConfigError, LabelStudioError, ModelFolderError, TightloopError
from backend.base.labeling import NewTask, Prediction, ProjectCounts
from backend.base.settings import Settings
from backend.labelstudio.client import authorization, create_project, find_project
from backend.labelstudio.incoming import SECRET_HEADER, WebhookEvent, project_id_of, read_webhook
from backend.labelstudio.label_config import label_config_xml, parse_label_config
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.project_setup import FIRST_TAB, ORDER_TAB, ProjectSetup
from backend.labelstudio.rows import prediction_result
from backend.labelstudio.task_images import load_task_image
from backend.store.project_record import (
    ProjectRecord,
    known_projects,
    project_root,
    read_record,
    write_record,
)
from scripts.setup.steps import SetupSteps, set_up
from tests.integration.conftest import Stack
from tests.integration.people import invite_link, log_in, sign_up

TITLE = "Edge under test"
UNKNOWN_IMAGE = '<Labels name="x" toName="nothing"><Label value="y"/></Labels>'
USER, PASSWORD, SECRET = "model", "a password", "a secret"


@pytest.fixture(scope="module")
def door(stack: Stack) -> tuple[str, str]:
    """Label Studio's address and a legacy token."""
    settings = stack.settings
    return settings.label_studio_url, settings.label_studio_api_key.get_secret_value()


@pytest.fixture(scope="module")
def api(door: tuple[str, str]) -> Iterator[httpx.Client]:
    """What annotators and administrators do."""
    url, token = door
    headers = {"Authorization": f"Token {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def project(door: tuple[str, str], api: httpx.Client) -> Iterator[ProjectSetup]:
    """A project of cats and dogs that the stack knows nothing of."""
    project_id = create_project(*door, title=TITLE, label_config=label_config_xml(["cat", "dog"]))
    yield ProjectSetup(*door, project_id)
    api.delete(f"/api/projects/{project_id}/").raise_for_status()


def guess(score: float, version: str = "r0001", label: str = "cat") -> Prediction:
    return Prediction(label, probability=0.75, score=score, model_version=version)


def new_task(
    image_id: str, prediction: Prediction | None = None, label: str | None = None
) -> NewTask:
    data = {"image": "data:image/png;base64,", "image_id": image_id}
    return NewTask(image_id, data, prediction, label)


def import_images(project: ProjectSetup, *tasks: NewTask) -> dict[str, int]:
    """The tasks' ids by image."""
    assert project.import_tasks(tasks) == len(tasks)
    return {task.image_id: task.task_id for task in project.tasks()}


def answer(
    api: httpx.Client, project: ProjectSetup, task_id: int, label: str | None, **fields: Any
) -> int:
    """Submit an annotation; its id."""
    result = [] if label is None else prediction_result(project.label_config(), label)
    made = api.post(f"/api/tasks/{task_id}/annotations/", json={"result": result, **fields})
    return int(made.raise_for_status().json()["id"])


def served_order(api: httpx.Client, project: ProjectSetup, count: int) -> list[str]:
    """The images that one person is asked, answering each."""
    asked = []
    for _ in range(count):
        task = api.get(f"/api/projects/{project.project_id}/next").raise_for_status().json()
        asked.append(task["data"]["image_id"])
        answer(api, project, task["id"], "cat")
    return asked


# Tasks and annotations


def test_a_task_is_open_until_somebody_submits_or_skips_it(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(
        project, *map(new_task, ["open", "submitted", "empty", "skipped", "reopened"])
    )
    answer(api, project, ids["submitted"], "cat")
    answer(api, project, ids["empty"], None)
    answer(api, project, ids["skipped"], None, was_cancelled=True)
    deleted = answer(api, project, ids["reopened"], "dog")
    api.delete(f"/api/annotations/{deleted}/").raise_for_status()

    assert {t.image_id for t in project.tasks() if t.is_open} == {"open", "reopened"}
    assert project.counts() == ProjectCounts(tasks=5, annotations=2, skipped=1, open=2)


def test_open_tasks_are_those_that_nobody_answered_or_skipped(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, *(new_task(i) for i in "abc"), new_task("seed", label="dog"))
    answer(api, project, ids["a"], "cat")
    answer(api, project, ids["b"], None, was_cancelled=True)
    open_ids = [task.task_id for task in project.tasks() if task.is_open]
    assert [task.task_id for task in project.open_tasks()] == open_ids
    assert [task.image_id for task in project.open_tasks()] == ["c"]


def test_annotations_say_who_said_what_and_what_was_skipped_or_left_empty(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, *map(new_task, ["submitted", "empty", "skipped", "open"]))
    me = api.get("/api/current-user/whoami").raise_for_status().json()["id"]
    submitted = answer(api, project, ids["submitted"], "dog")
    answer(api, project, ids["empty"], None)
    answer(api, project, ids["skipped"], None, was_cancelled=True)

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


def test_annotations_say_how_they_came_about_and_seeds_are_nobodys(
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
    answer(api, project, ids["seed"], "dog", ground_truth=True)

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


def test_a_task_that_is_asked_again_goes_to_another_person_until_that_one_has_answered(
    project: ProjectSetup, api: httpx.Client, door: tuple[str, str]
) -> None:
    url, token = door
    assert sign_up(url, invite_link(url, token), "second@example.org").status_code == 302
    second_id, second_token = log_in(url, "second@example.org")
    ids = import_images(project, new_task("a", guess(0.1)), new_task("b", guess(0.2)))
    for task_id in ids.values():
        answer(api, project, task_id, "cat")
    assert project.open_tasks() == []

    project.reopen(ids["b"], n_annotators=2)

    [again] = project.open_tasks()
    assert (again.task_id, again.is_open, again.awaits_second_opinion) == (ids["b"], False, True)
    path = f"/api/projects/{project.project_id}/next"
    assert api.get(path).status_code == 404  # nothing for whoever answered it
    headers = {"Authorization": f"Token {second_token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as second:
        assert second.get(path).raise_for_status().json()["id"] == ids["b"]
        answer(second, project, ids["b"], "dog")
        assert second.get(path).status_code == 404
    assert project.open_tasks() == []
    assert {a.annotator for a in project.annotations()[ids["b"]]} > {second_id}
    assert project.annotator_names()[second_id] == "second@example.org"


def test_only_tasks_that_changed_are_read_again(project: ProjectSetup, api: httpx.Client) -> None:
    ids = import_images(project, *map(new_task, ["untouched", "edited", "emptied"]))
    for image_id in ids:
        answer(api, project, ids[image_id], "cat")
    before = project.annotations()
    [edited], [emptied] = before[ids["edited"]], before[ids["emptied"]]
    moment = datetime.now(UTC)  # one clock: the server is on this machine
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
    assert task.versions == {"r0001"}
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


def test_somebodys_own_task_without_our_data_is_read_too(
    project: ProjectSetup, api: httpx.Client
) -> None:
    path = f"/api/projects/{project.project_id}/import"
    api.post(path, json=[{"data": {"image": "data:,"}}]).raise_for_status()
    [task] = project.tasks()
    assert task.image_id == ""
    assert project.image_ids() == set()


# Predictions and order


def test_people_get_the_least_confident_first_and_after_a_switch_the_new_order(
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


def test_people_get_a_diverse_set_in_turns_and_never_two_alike_in_a_row(
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
    # Imported in another order: it must be the score that counts.
    import_images(project, *(new_task(i, guess(float(s))) for i, s in sorted(chosen)))
    served = served_order(api, project, 12)
    assert served == list(query.image_ids)
    assert all(first[0] != second[0] for first, second in pairwise(served))


def test_all_versions_of_a_tasks_predictions_are_known_so_that_none_is_imported_twice(
    project: ProjectSetup,
) -> None:
    ids = import_images(project, new_task("a", guess(0.25)))
    for version in ("r0002", "r0003"):
        project.import_predictions({ids["a"]: guess(0.25, version)})
    assert project.open_tasks()[0].versions == {"r0001", "r0002", "r0003"}


def test_a_prediction_carries_probability_and_confidence(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(project, new_task("a", guess(0.25, label="dog")))
    [kept] = api.get("/api/predictions/", params={"task": ids["a"]}).json()
    assert kept["score"] == 0.25
    assert kept["result"] == prediction_result(project.label_config(), "dog", 0.75)


def test_predictions_for_a_task_that_is_gone_are_refused_and_none_is_kept(
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


# What people see


def tabs(api: httpx.Client, project: ProjectSetup) -> list[dict[str, Any]]:
    found = api.get("/api/dm/views/", params={"project": project.project_id})
    return list(found.raise_for_status().json())


def test_a_second_tab_shows_todays_order_and_is_left_as_people_make_it(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(
        project, new_task("a", guess(0.1)), new_task("b", guess(0.2)), new_task("s", label="dog")
    )
    project.import_predictions({ids["a"]: guess(0.9, "r0002"), ids["b"]: guess(0.8, "r0002")})
    project.switch_model_version("r0002")
    assert project.add_order_tab()
    assert not project.add_order_tab()

    first, look = tabs(api, project)  # people land in the first
    assert [tab["data"]["title"] for tab in (first, look)] == [FIRST_TAB, ORDER_TAB]
    shown = api.get("/api/tasks/", params={"view": look["id"]}).raise_for_status().json()["tasks"]
    assert [task["data"]["image_id"] for task in shown] == ["b", "a"]
    hidden = look["data"]["hiddenColumns"]["explore"]
    assert {"tasks:data.image_id", "tasks:id", "tasks:predictions_results"} < {*hidden}
    assert {"tasks:data.image", "tasks:predictions_score"}.isdisjoint(hidden)

    path = f"/api/dm/views/{look['id']}/"
    theirs = {**look["data"], "ordering": ["tasks:id"]}
    api.patch(path, json={"project": project.project_id, "data": theirs}).raise_for_status()
    assert not project.add_order_tab()
    assert tabs(api, project)[1]["data"]["ordering"] == ["tasks:id"]
    api.delete(path).raise_for_status()
    assert project.add_order_tab()
    assert [tab["data"]["title"] for tab in tabs(api, project)] == [FIRST_TAB, ORDER_TAB]


def test_description_and_instructions_are_ours_until_somebody_writes_others(
    project: ProjectSetup, api: httpx.Client
) -> None:
    path = f"/api/projects/{project.project_id}/"
    html = "Press <b>Label All Tasks</b>.<br><br>\nIt's easy.\n"
    for round_ in "12":
        assert project.set_description(f"Tightloop, round {round_}: better")
        assert not project.set_description(f"Tightloop, round {round_}: better")
    assert project.instruct(html, earlier={html})
    assert not project.instruct(html, earlier={html})
    assert project.instruct("Look!", earlier={html})
    now = api.get(path).raise_for_status().json()
    assert (now["description"], now["expert_instruction"]) == (
        "Tightloop, round 2: better",
        "Look!",
    )
    assert now["show_instruction"] is False  # a dialog at every start would annoy

    theirs = {"description": "Birds of Sylt", "expert_instruction": "Mind the terns."}
    api.patch(path, json=theirs).raise_for_status()
    assert not project.set_description("Tightloop, round 3: better")
    assert not project.instruct(html, earlier={html, "Look!"})
    assert {key: api.get(path).json()[key] for key in theirs} == theirs


def test_another_label_config_keeps_order_and_tasks_that_lack_a_hint(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    import_images(project, *(new_task(i, guess(s)) for i, s in (("a", 0.2), ("b", 0.1))))
    hinting = label_config_xml(["cat", "dog"], has_hint=True)
    assert project.change_label_config(hinting)
    assert not project.change_label_config(hinting)
    import_images(project, new_task("c", guess(0.05)))
    assert served_order(api, project, 3) == ["c", "b", "a"]


# Tokens and images


def test_a_wrong_token_names_the_setting(door: tuple[str, str]) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        ProjectSetup(door[0], "f" * 40, 1).title()


@pytest.fixture
def personal_token(api: httpx.Client) -> Iterator[str]:
    """A token of the newer kind, which is exchanged for short-lived ones."""
    settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    api.post("/api/jwt/settings", json=settings).raise_for_status()
    token = api.post("/api/token/").raise_for_status().json()["token"]
    yield token
    api.post("/api/token/blacklist/", json={"refresh": token}).raise_for_status()


@pytest.mark.filterwarnings("ignore:The `parse_obj` method")  # the SDK's own
def test_a_personal_token_serves_as_well_and_so_do_label_studios_own_images(
    door: tuple[str, str], api: httpx.Client, project: ProjectSetup, personal_token: str
) -> None:
    mine = ProjectSetup(door[0], personal_token, project.project_id)
    assert mine.import_tasks([new_task("a")]) == 1
    assert mine.counts().tasks == 1
    assert authorization(door[0], personal_token).startswith("Bearer ")

    png = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(png, "PNG")
    api.post(
        f"/api/projects/{project.project_id}/import", files={"file": ("a.png", png.getvalue())}
    ).raise_for_status()
    tasks = api.get("/api/tasks/", params={"project": project.project_id}).json()["tasks"]
    [path] = {task["data"]["image"] for task in tasks} - {"data:image/png;base64,"}
    assert path.startswith("/data/")
    for key in (personal_token, door[1]):
        pixels = load_task_image(
            path, label_studio_url=door[0], api_key=key, image_size=64, max_pixels=1_000_000
        )
        assert pixels.shape == (2, 3, 3)


# Webhook and ML backend


class Receiver:
    """An ML backend that keeps what it is asked; the images in `bad` are beyond it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.password = PASSWORD
        self.bad: set[str] = set()
        self.bad_answer: Any = []
        self.events: list[tuple[str | None, dict[str, Any]]] = []  # secret and payload
        self.projects: list[int] = []

    def answer(self, path: str, headers: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if path == "/webhook":
            self.events.append((headers.get(SECRET_HEADER), body))
            return 200, {}
        if httpx.BasicAuth(USER, self.password)._auth_header != headers.get("Authorization"):
            return 401, {"error": "no"}
        if path == "/setup":
            self.projects.append(project_id_of(body["project"]))
            return 200, {"model_version": "r0001"}
        good = {"result": [_cat()], "score": 0.5, "model_version": "r0001"}
        images = [task["data"]["image_id"] for task in body["tasks"]]
        return 200, {"results": [self.bad_answer if i in self.bad else good for i in images]}


def _cat() -> dict[str, Any]:
    value = {"choices": ["cat"]}
    return {"from_name": "label", "to_name": "image", "type": "choices", "value": value}


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"status": "UP"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*one.answer(self.path, dict(self.headers), body))

        def reply(self, status: int, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        one = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield one
        server.shutdown()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def webhooks(api: httpx.Client, project: LabelStudioProject) -> list[dict[str, Any]]:
    found = api.get("/api/webhooks/", params={"project": project.project_id})
    return list(found.raise_for_status().json())


def backends(api: httpx.Client, project: LabelStudioProject) -> list[dict[str, Any]]:
    found = api.get("/api/ml/", params={"project": project.project_id})
    return list(found.raise_for_status().json())


def test_every_change_of_an_annotation_arrives_with_the_secret_and_is_understood(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    project.connect_webhook(f"{receiver.url}/webhook", SECRET)
    ids = import_images(project, *map(new_task, ["a", "b", "c", "kept"]))
    dog = prediction_result(project.label_config(), "dog")

    def delete_answers() -> None:
        api.post(
            "/api/dm/actions/",
            params={"id": "delete_tasks_annotations", "project": project.project_id},
            json={"selectedItems": {"all": False, "included": [ids["a"], ids["b"]]}},
        ).raise_for_status()

    first = answer(api, project, ids["a"], "cat")
    answer(api, project, ids["b"], None, was_cancelled=True)
    edited = api.patch(f"/api/annotations/{first}/", json={"result": dog})
    edited.raise_for_status()
    delete_answers()
    project.delete_tasks([ids["c"]])

    assert [secret for secret, _ in receiver.events] == [SECRET] * 5
    # submitted, skipped, edited, two deleted, a task deleted
    expected: list[tuple[str, ...]] = [("a",), ("b",), ("a",), (), ()]
    assert [read_webhook(payload) for _, payload in receiver.events] == [
        WebhookEvent("annotations", project.project_id, answered) for answered in expected
    ]


def test_the_webhook_is_there_once_however_often_and_by_whomever_it_was_made(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    url = f"{receiver.url}/webhook"
    plain = {"project": project.project_id, "url": url, "send_for_all_actions": True}
    api.post("/api/webhooks/", json=plain).raise_for_status()
    foreign = {"project": project.project_id, "url": f"{receiver.url}/theirs"}
    api.post("/api/webhooks/", json=foreign).raise_for_status()

    assert project.connect_webhook(url, SECRET)
    assert not project.connect_webhook(url, SECRET)
    [kept] = [hook for hook in webhooks(api, project) if hook["url"] == url]
    assert kept["headers"] == {SECRET_HEADER: SECRET}
    assert project.connect_webhook(url, "another secret")
    assert project.connect_webhook(f"{receiver.url}/moved", "another secret")
    assert sorted(hook["url"] for hook in webhooks(api, project)) == [
        f"{receiver.url}/moved",
        f"{receiver.url}/theirs",
    ]


def test_the_ml_backend_is_connected_once_and_adds_no_webhook_of_its_own(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    project.connect_webhook(f"{receiver.url}/webhook", SECRET)
    assert project.connect_backend(receiver.url, USER, PASSWORD)
    assert not project.connect_backend(receiver.url, USER, PASSWORD)
    [backend] = backends(api, project)
    assert (backend["url"], backend["readable_state"]) == (receiver.url, "Connected")
    assert [hook["headers"] for hook in webhooks(api, project)] == [{SECRET_HEADER: SECRET}]
    assert project.model_version() == ""  # not the backend's title: opening a task would wait
    assert set(receiver.projects) == {project.project_id}


def test_a_new_password_or_address_replaces_the_connection(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    project.connect_backend(receiver.url, USER, PASSWORD)
    receiver.password = "a new password"
    assert project.connect_backend(receiver.url, USER, "a new password")
    with receiving() as moved:
        assert project.connect_backend(moved.url, USER, PASSWORD)
        assert [backend["url"] for backend in backends(api, project)] == [moved.url]


def test_a_backend_that_is_down_or_refuses_the_password_leaves_nothing_behind(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    with pytest.raises(LabelStudioError, match="BACKEND_URL"):
        project.connect_backend("http://127.0.0.1:1", USER, PASSWORD)
    with pytest.raises(LabelStudioError, match="BACKEND_URL") as refused:
        project.connect_backend(receiver.url, USER, "a wrong password")
    assert "a wrong password" not in str(refused.value)
    assert backends(api, project) == []


def test_start_training_is_understood(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    project.connect_backend(receiver.url, USER, PASSWORD)
    import_images(project, new_task("a", label="cat"))
    receiver.events.clear()
    [backend] = backends(api, project)
    api.post(f"/api/ml/{backend['id']}/train").raise_for_status()
    [(_, payload)] = receiver.events
    assert read_webhook(payload) == WebhookEvent("start_training", project.project_id)


@pytest.mark.parametrize(
    "bad_answer", [[], {"result": [], "score": None, "model_version": "r0001"}]
)
def test_a_bad_image_costs_its_own_prediction_alone(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver, bad_answer: Any
) -> None:
    receiver.bad, receiver.bad_answer = {"bad"}, bad_answer
    project.connect_backend(receiver.url, USER, PASSWORD)
    import_images(project, *map(new_task, ["bad", "good", "fine"]))
    api.post(
        "/api/dm/actions/",
        params={"id": "retrieve_tasks_predictions", "project": project.project_id},
        json={"selectedItems": {"all": True, "excluded": []}},
    ).raise_for_status()
    predicted = {task.image_id for task in project.open_tasks() if task.versions}
    assert predicted >= {"good", "fine"}
    project.switch_model_version("r0001")
    assert served_order(api, project, 1) != ["bad"]


# Projects and set-up


def test_a_project_is_found_by_its_id_then_by_its_exact_title(
    door: tuple[str, str], project: ProjectSetup
) -> None:
    assert find_project(*door, titles=["no such title"]) is None
    assert find_project(*door, titles=[TITLE.upper(), TITLE[:8]]) is None
    assert find_project(*door, titles=["no such title", TITLE]) == project.project_id
    assert find_project(*door, titles=[], project_id=project.project_id) == project.project_id
    assert find_project(*door, titles=[TITLE], project_id=10**6) == project.project_id


def test_setting_up_again_changes_nothing(stack: Stack, api: httpx.Client) -> None:
    def state() -> Sequence[Any]:
        [project_id] = known_projects(stack.settings.model_dir)
        project = ProjectSetup(str(api.base_url).rstrip("/"), _token(stack), project_id)
        return (
            project_id,
            read_record(project_root(stack.settings.model_dir, project_id)),
            [hook["id"] for hook in webhooks(api, project)],
            [backend["id"] for backend in backends(api, project)],
            [p["title"] for p in api.get("/api/projects/").json()["results"]],
        )

    before = state()
    again = stack.run("scripts.setup_project")
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stdout
    assert state() == before
    assert len(before[2]) == len(before[3]) == 1


def test_a_folder_of_another_label_studios_project_is_left_alone(
    stack: Stack, tmp_path: Any, project: ProjectSetup
) -> None:
    settings = _settings(stack, model_dir=tmp_path, project_title=TITLE)
    root = project_root(tmp_path, project.project_id)
    record = ProjectRecord(
        project_id=project.project_id,
        title=TITLE,
        label_studio_url="http://elsewhere",
        project_created_at="2001-01-01T00:00:00Z",
        pool="digits",
        weights="none",
        seed=0,
        classes=("cat", "dog"),
    )
    write_record(root, record)
    with pytest.raises(ModelFolderError, match="move it away"):
        set_up(settings)
    assert read_record(root) == record


def test_a_project_whose_classes_are_not_the_pools_is_left_alone(
    stack: Stack, tmp_path: Any, project: ProjectSetup, api: httpx.Client
) -> None:
    settings = _settings(stack, model_dir=tmp_path, project_title=TITLE, pool="digits")
    with pytest.raises(LabelConfigError, match=r"\(cat, dog\) do not match .*\(0, 1, 2"):
        set_up(settings)
    assert known_projects(tmp_path) == []
    assert project.tasks() == []
    assert webhooks(api, project) == backends(api, project) == []


def test_what_auto_once_chose_sticks_with_its_notice(
    stack: Stack, tmp_path: Any, door: tuple[str, str], api: httpx.Client
) -> None:
    title = "Auto under test (digits)"
    classes = [str(digit) for digit in range(10)]
    project_id = create_project(*door, title=title, label_config=label_config_xml(classes))
    root = project_root(tmp_path, project_id)
    record = ProjectRecord(
        project_id=project_id,
        title=title,
        label_studio_url=door[0],
        project_created_at=ProjectSetup(*door, project_id).created_at(),
        pool="digits",
        weights="none",
        seed=0,
        classes=tuple(classes),
        pool_notice="no network",
    )
    write_record(root, record)
    settings = _settings(
        stack, model_dir=tmp_path, project_title=title, pool="auto", weights="auto", seed_labels=0
    )
    with receiving() as backend:  # the stack's own knows another model folder
        settings = settings.model_copy(update={"backend_url": backend.url, "backend_user": USER})
        backend.password = settings.backend_password.get_secret_value()
        assert set_up(settings) == project_id
    kept = read_record(root)
    api.delete(f"/api/projects/{project_id}/").raise_for_status()
    assert kept == record


def _config_xml(stack: Stack) -> str:
    project_id = stack.info["project_id"]
    url = stack.settings.label_studio_url
    return ProjectSetup(url, _token(stack), project_id).label_config_xml()


def test_hints_come_and_go_with_their_setting_and_never_with_blind(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _config_xml(stack)
    set_up(_settings(stack, hints=True))
    assert '<Header value="$hint"' in _config_xml(stack)
    set_up(_settings(stack, hints=True, blind=True))
    assert "so HINTS=true has no effect" in capsys.readouterr().out
    assert _config_xml(stack) == before
    set_up(_settings(stack))
    assert _config_xml(stack) == before


def test_a_label_config_of_an_earlier_release_is_brought_up_to_date(stack: Stack) -> None:
    before = _config_xml(stack)
    earlier = before.replace('smoothing="true"', 'smoothing="false"')
    assert earlier != before
    url, project_id = stack.settings.label_studio_url, stack.info["project_id"]
    ProjectSetup(url, _token(stack), project_id).change_label_config(earlier)
    set_up(_settings(stack))
    assert _config_xml(stack) == before


def test_somebodys_own_label_config_is_taken_and_then_left_alone(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _config_xml(stack)
    own = before.replace("flex: 1", "flex: 2")
    set_up(_settings(stack), label_config=own)
    set_up(_settings(stack, hints=True))
    assert 'add <Header value="$hint"/> to it' in capsys.readouterr().out
    assert _config_xml(stack) == own

    first = parse_label_config(own).choices[0]
    for wrong, complaint in (
        (own.replace('name="label"', 'name="kind"'), 'must have name="label"'),
        (own.replace(f'"{first}"', f'" {first}"'), "must spell its choices"),
        (own.replace("</View>", f"</View>{UNKNOWN_IMAGE}", 1), "nothing"),
    ):
        with pytest.raises(TightloopError, match=complaint):
            set_up(_settings(stack), label_config=wrong)
        assert _config_xml(stack) == own
    set_up(_settings(stack), label_config=before)
    assert _config_xml(stack) == before


def test_a_new_project_is_made_with_somebodys_own_label_config_or_not_at_all(
    stack: Stack, tmp_path: Any, door: tuple[str, str], api: httpx.Client
) -> None:
    title = "Own label config under test"
    settings = _settings(stack, model_dir=tmp_path, project_title=title, pool="digits")
    own = label_config_xml([str(digit) for digit in range(10)]).replace("400px", "300px")
    refused = own.replace("</View>", f"</View>{UNKNOWN_IMAGE}", 1)
    for wrong in (own.replace("$image", "$picture"), refused):
        with pytest.raises(TightloopError):
            SetupSteps(settings).open(wrong)
    assert find_project(*door, titles=[title]) is None
    steps = SetupSteps(settings)
    assert steps.open(own)
    project = steps.project
    assert project.label_config_xml() == own.strip()
    api.delete(f"/api/projects/{project.project_id}/").raise_for_status()


def test_a_label_config_that_is_not_there_stops_set_up_with_its_name(stack: Stack) -> None:
    failed = stack.run("scripts.setup_project", "--label-config", "missing.xml")
    assert failed.returncode == 1
    assert "missing.xml cannot be read" in failed.stderr


def _settings(stack: Stack, **changes: Any) -> Settings:
    return stack.settings.model_copy(update=changes)


def _token(stack: Stack) -> str:
    return stack.settings.label_studio_api_key.get_secret_value()
