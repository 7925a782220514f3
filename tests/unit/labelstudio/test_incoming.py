"""Parse webhooks and requests to the ML backend: any JSON may arrive."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.incoming import CHANGED_LISTS, WebhookEvent, project_id_of, read_webhook


@pytest.mark.parametrize(
    "payload",
    [
        {"action": "ANNOTATION_CREATED", "annotation": {}},
        {"action": "ANNOTATION_UPDATED", "annotation": {}},
        {"action": "ANNOTATIONS_CREATED", "annotation": [{}, {}, {}]},
        {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}, {"id": 2}]},
        {"action": "TASKS_DELETED", "tasks": [{"id": 1}]},
    ],
)
def test_a_webhook_names_the_project_whose_annotations_changed(payload: dict[str, Any]) -> None:
    event = read_webhook({**payload, "project": {"id": 25}})
    assert event == WebhookEvent("annotations", 25)


def test_start_training_is_recognised() -> None:
    event = read_webhook({"action": "START_TRAINING", "project": {"id": 25}})
    assert event == WebhookEvent("start_training", 25)


@pytest.mark.parametrize(
    "payload",
    [
        {"action": "PROJECT_UPDATED", "project": {"id": 25}},
        {"action": "something of tomorrow"},
        {"action": "ANNOTATIONS_DELETED", "annotations": [], "project": {"id": 25}},
    ],
)
def test_a_webhook_about_anything_else_is_ignored(payload: dict[str, Any]) -> None:
    assert read_webhook(payload).kind == "ignored"


@pytest.mark.parametrize(
    "payload",
    [
        [],
        None,
        {},
        {"action": 3},
        {"action": "ANNOTATION_CREATED"},
        {"action": "ANNOTATION_CREATED", "project": 25},
        {"action": "ANNOTATION_CREATED", "project": {"id": True}},
        {"action": "ANNOTATION_CREATED", "project": {"id": "25"}},
        {"action": "START_TRAINING", "project": {"id": 0}},
        {"action": "ANNOTATIONS_CREATED", "annotation": {}, "project": {"id": 25}},
    ],
)
def test_a_malformed_webhook_is_a_value_error(payload: Any) -> None:
    with pytest.raises(ValueError, match="webhook"):
        read_webhook(payload)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("payload", "annotated"),
    [
        ({"action": "ANNOTATION_CREATED", "task": {"data": {"image_id": "a"}}}, ("a",)),
        ({"action": "ANNOTATION_UPDATED", "task": {"data": {"text": "not ours"}}}, ()),
        (
            {
                "action": "ANNOTATIONS_CREATED",
                "annotation": [{}, {}],
                "task": [{"data": {"image_id": "a"}}, {"data": {"image_id": "b"}}],
            },
            ("a", "b"),
        ),
        ({"action": "ANNOTATIONS_DELETED", "annotations": [{}]}, ()),
        ({"action": "ANNOTATION_CREATED", "task": [None, 3, {"data": None}]}, ()),
    ],
)
def test_a_webhook_names_the_images_that_were_annotated(
    payload: dict[str, Any], annotated: tuple[str, ...]
) -> None:
    assert read_webhook({**payload, "project": {"id": 25}}).annotated == annotated


def test_the_images_of_an_attached_project_are_named_after_their_tasks() -> None:
    tasks = [{"id": 5, "data": {"image_id": "a"}}, {"id": True}, {"id": "7"}, {"id": 6}]
    payload = {"action": "ANNOTATIONS_CREATED", "annotation": [{}], "project": {"id": 25}}
    event = read_webhook({**payload, "task": tasks})
    assert event.images(is_attached=True) == ("ls-5", "ls-6")
    assert event.images(is_attached=False) == ("a",)


nearly_webhooks = st.fixed_dictionaries(
    {"action": st.sampled_from([*CHANGED_LISTS, "START_TRAINING"]) | any_json},
    optional={
        "project": st.fixed_dictionaries({"id": any_json}) | any_json,
        "annotation": any_json,
        "annotations": any_json,
        "tasks": any_json,
    },
)


@given(nearly_webhooks | any_json)
def test_any_json_is_an_event_or_a_value_error(payload: Any) -> None:
    try:
        event = read_webhook(payload)
    except ValueError:
        return
    assert event.kind == "ignored" or event.project_id > 0


@pytest.mark.parametrize("project", ["25.1795346887", "25", "25."])
def test_the_project_of_a_predict_request_is_its_leading_number(project: str) -> None:
    assert project_id_of(project) == 25


@pytest.mark.parametrize("project", ["", "x", "-1.5", "../25", "٢٥", "9" * 19, None, 25])
def test_any_other_project_is_refused(project: object) -> None:
    with pytest.raises(ValueError, match="project"):
        project_id_of(project)
