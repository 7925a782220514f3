"""Set up one project: tabs, texts, label config, webhook, ML backend."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from backend.base.errors import LabelStudioError
from backend.labelstudio.incoming import SECRET_HEADER, WebhookEvent, read_webhook
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project_setup import FIRST_TAB, ORDER_TAB, ProjectSetup
from backend.labelstudio.rows import prediction_result
from tests.integration.labelstudio.annotating import (
    annotate,
    guess,
    import_images,
    new_task,
    served_order,
)
from tests.integration.labelstudio.receiver import (
    PASSWORD,
    SECRET,
    USER,
    Receiver,
    backends,
    receiving,
    webhooks,
)


def tabs(api: httpx.Client, project: ProjectSetup) -> list[dict[str, Any]]:
    found = api.get("/api/dm/views/", params={"project": project.project_id})
    return list(found.raise_for_status().json())


def test_a_second_tab_shows_the_current_order_and_keeps_peoples_changes(
    project: ProjectSetup, api: httpx.Client
) -> None:
    ids = import_images(
        project, new_task("a", guess(0.1)), new_task("b", guess(0.2)), new_task("s", label="dog")
    )
    project.import_predictions({ids["a"]: guess(0.9, "r0002"), ids["b"]: guess(0.8, "r0002")})
    project.switch_model_version("r0002")
    assert project.add_order_tab()
    assert not project.add_order_tab()

    first, order = tabs(api, project)  # Label Studio opens the first tab
    assert [tab["data"]["title"] for tab in (first, order)] == [FIRST_TAB, ORDER_TAB]
    shown = api.get("/api/tasks/", params={"view": order["id"]}).raise_for_status().json()["tasks"]
    assert [task["data"]["image_id"] for task in shown] == ["b", "a"]
    hidden = order["data"]["hiddenColumns"]["explore"]
    assert {"tasks:data.image_id", "tasks:id", "tasks:predictions_results"} < {*hidden}
    assert {"tasks:data.image", "tasks:predictions_score"}.isdisjoint(hidden)

    path = f"/api/dm/views/{order['id']}/"
    edited = {**order["data"], "ordering": ["tasks:id"]}
    api.patch(path, json={"project": project.project_id, "data": edited}).raise_for_status()
    assert not project.add_order_tab()
    assert tabs(api, project)[1]["data"]["ordering"] == ["tasks:id"]
    api.delete(path).raise_for_status()
    assert project.add_order_tab()
    assert [tab["data"]["title"] for tab in tabs(api, project)] == [FIRST_TAB, ORDER_TAB]


def test_description_and_instructions_are_updated_until_a_person_edits_them(
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
    shown = api.get(path).raise_for_status().json()
    assert (shown["description"], shown["expert_instruction"]) == (
        "Tightloop, round 2: better",
        "Look!",
    )
    assert shown["show_instruction"] is False  # a dialog at every start would annoy

    edited = {"description": "Birds of Sylt", "expert_instruction": "Mind the terns."}
    api.patch(path, json=edited).raise_for_status()
    assert not project.set_description("Tightloop, round 3: better")
    assert not project.instruct(html, earlier={html, "Look!"})
    assert {key: api.get(path).json()[key] for key in edited} == edited


def test_a_changed_label_config_keeps_the_order_and_tasks_without_a_hint(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    import_images(project, *(new_task(i, guess(s)) for i, s in (("a", 0.2), ("b", 0.1))))
    hinting = label_config_xml(["cat", "dog"], has_hint=True)
    assert project.change_label_config(hinting)
    assert not project.change_label_config(hinting)
    import_images(project, new_task("c", guess(0.05)))
    assert served_order(api, project, 3) == ["c", "b", "a"]


def test_every_change_of_an_annotation_sends_a_webhook_with_the_secret(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    project.connect_webhook(f"{receiver.url}/webhook", SECRET)
    ids = import_images(project, *map(new_task, ["a", "b", "c", "kept"]))
    dog = prediction_result(project.label_config(), "dog")

    def delete_annotations() -> None:
        api.post(
            "/api/dm/actions/",
            params={"id": "delete_tasks_annotations", "project": project.project_id},
            json={"selectedItems": {"all": False, "included": [ids["a"], ids["b"]]}},
        ).raise_for_status()

    first = annotate(api, project, ids["a"], "cat")
    annotate(api, project, ids["b"], None, was_cancelled=True)
    edited = api.patch(f"/api/annotations/{first}/", json={"result": dog})
    edited.raise_for_status()
    delete_annotations()
    project.delete_tasks([ids["c"]])

    assert [secret for secret, _ in receiver.events] == [SECRET] * 5
    # submitted, skipped, edited, two deleted, a task deleted
    expected: list[tuple[str, ...]] = [("a",), ("b",), ("a",), (), ()]
    assert [read_webhook(payload) for _, payload in receiver.events] == [
        WebhookEvent("annotations", project.project_id, names, tuple(ids[name] for name in names))
        for names in expected
    ]


def test_connecting_the_webhook_repeatedly_leaves_one_and_keeps_other_webhooks(
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


def test_the_ml_backend_is_connected_once_and_adds_no_webhook(
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


def test_a_backend_that_is_down_or_refuses_the_password_is_not_connected(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    with pytest.raises(LabelStudioError, match="BACKEND_URL"):
        project.connect_backend("http://127.0.0.1:1", USER, PASSWORD)
    with pytest.raises(LabelStudioError, match="BACKEND_URL") as refused:
        project.connect_backend(receiver.url, USER, "a wrong password")
    assert "a wrong password" not in str(refused.value)
    assert backends(api, project) == []


def test_start_training_arrives_as_a_webhook_event(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver
) -> None:
    project.connect_backend(receiver.url, USER, PASSWORD)
    import_images(project, new_task("a", label="cat"))
    receiver.events.clear()
    [backend] = backends(api, project)
    api.post(f"/api/ml/{backend['id']}/train").raise_for_status()
    [(_, payload)] = receiver.events
    assert read_webhook(payload) == WebhookEvent("start_training", project.project_id)


@pytest.mark.parametrize("bad_reply", [[], {"result": [], "score": None, "model_version": "r0001"}])
def test_a_bad_image_loses_only_its_own_prediction(
    project: ProjectSetup, api: httpx.Client, receiver: Receiver, bad_reply: Any
) -> None:
    receiver.bad, receiver.bad_reply = {"bad"}, bad_reply
    project.connect_backend(receiver.url, USER, PASSWORD)
    ids = import_images(project, *map(new_task, ["bad", "good", "fine"]))
    api.post(
        "/api/dm/actions/",
        params={"id": "retrieve_tasks_predictions", "project": project.project_id},
        json={"selectedItems": {"all": True, "excluded": []}},
    ).raise_for_status()
    assert project.predicted_by("r0001", ids.values()) >= {ids["good"], ids["fine"]}
    project.switch_model_version("r0001")
    assert served_order(api, project, 1) != ["bad"]
