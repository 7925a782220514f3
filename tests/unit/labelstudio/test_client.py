"""Label Studio's JSON without a server: label configs, webhooks, and what its errors become."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.base.errors import LabelConfigError, LabelStudioError
from backend.base.labeling import Annotation, LabelConfig, Task, TaskReading, match_classes
from backend.labelstudio.client import (
    CHANGED_LISTS,
    LabelStudioProject,
    WebhookEvent,
    is_our_label_config,
    label_config_xml,
    label_now_url,
    parse_label_config,
    prediction_result,
    project_id_of,
    read_webhook,
)
from backend.store.project_store import ProjectStore

TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONFIG = LabelConfig("label", "image", "image", ("cat", "dog"))
IMAGE = '<Image name="image" value="$image"/>'
CHOICE = '<Choice value="cat"/><Choice value="dog"/>'
CHOICES = f'<Choices name="label" toName="image" choice="single-radio">{CHOICE}</Choices>'


def config(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


# Label configs


def test_a_label_config_gives_names_key_and_choices() -> None:
    xml = config('<Image name="pic" value="$photo"/>', CHOICES.replace('"image"', '"pic"'))
    assert parse_label_config(xml) == LabelConfig("label", "pic", "photo", ("cat", "dog"))


def test_choices_without_a_kind_are_single_choice_as_label_studio_takes_them() -> None:
    xml = config(IMAGE, CHOICES.replace(' choice="single-radio"', ""))
    assert parse_label_config(xml).choices == ("cat", "dog")


def test_a_choice_with_an_alias_is_known_by_it_as_annotations_carry_it() -> None:
    xml = config(IMAGE, CHOICES.replace('value="cat"', 'value="Cat (any)" alias="cat"'))
    assert parse_label_config(xml).choices == ("cat", "dog")


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        ("", "not XML"),
        ("<View", "not XML"),
        ("<View/>", "0 Image and 0 Choices"),
        (config(IMAGE, IMAGE, CHOICES), "2 Image and 1 Choices"),
        (config(IMAGE, CHOICES, CHOICES), "1 Image and 2 Choices"),
        (config(IMAGE, CHOICES.replace("single-radio", "multiple")), "single-radio"),
        (config(IMAGE, CHOICES.replace('toName="image"', 'toName="text"')), "toName"),
        (config(IMAGE.replace("$image", "image"), CHOICES), "value"),
        (config(IMAGE, CHOICES.replace(CHOICE, "")), "at least two"),
        (config(IMAGE, CHOICES.replace('value="cat"', "")), "at least two"),
    ],
)
def test_a_label_config_that_is_not_for_us_is_refused_with_the_reason(
    xml: str, complaint: str
) -> None:
    with pytest.raises(LabelConfigError, match=complaint):
        parse_label_config(xml)


# What XML 1.0 can carry in an attribute without changing it.
class_names = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")), min_size=1, max_size=20
)


@given(st.lists(class_names, min_size=2, max_size=15, unique=True))
def test_our_label_config_carries_any_class_names(names: list[str]) -> None:
    assert parse_label_config(label_config_xml(names)) == LabelConfig(
        "label", "image", "image", tuple(names)
    )


def test_the_first_ten_choices_have_the_hotkeys_1_to_9_and_0() -> None:
    xml = label_config_xml([f"class {i}" for i in range(12)])
    assert '<Choice value="class 0" hotkey="1"/>' in xml
    assert '<Choice value="class 9" hotkey="0"/>' in xml
    assert '<Choice value="class 10"/>' in xml


def test_the_hint_is_read_from_the_task_and_changes_nothing_else() -> None:
    plain, hinting = (label_config_xml(["cat", "dog"], has_hint=h) for h in (False, True))
    assert "$hint" not in plain
    assert hinting.count('<Header value="$hint"') == 1
    assert parse_label_config(hinting) == parse_label_config(plain)


def test_more_choices_than_fit_below_each_other_stand_in_columns() -> None:
    assert "columns" not in label_config_xml([f"class {i}" for i in range(20)])
    many = label_config_xml([f"class {i}" for i in range(21)])
    assert "columns: 160px" in many
    assert len(parse_label_config(many).choices) == 21


def test_our_own_label_config_is_known_until_somebody_changes_it() -> None:
    for count in (2, 30):
        for has_hint in (False, True):
            xml = label_config_xml([f"a < {i}" for i in range(count)], has_hint=has_hint)
            assert is_our_label_config(xml.strip())  # Label Studio keeps no blanks around it
            assert not is_our_label_config(xml.replace("400px", "300px"))
    assert not is_our_label_config(config(IMAGE, CHOICES))


def test_the_link_for_people_leads_to_the_button_that_keeps_order_and_locks() -> None:
    assert label_now_url("https://label.example.org", 7) == (
        "https://label.example.org/projects/7/data"
    )


def test_classes_match_without_case_and_order_and_keep_the_configs_spelling() -> None:
    assert match_classes(("Dog", " CAT "), ("cat", "dog")) == (" CAT ", "Dog")


@pytest.mark.parametrize(
    "choices", [("cat",), ("cat", "dog", "frog"), ("cat", "frog"), ("cat", "Cat")]
)
def test_classes_that_do_not_match_are_refused_naming_both_lists(choices: tuple[str, ...]) -> None:
    with pytest.raises(LabelConfigError) as refused:
        match_classes(choices, ("cat", "dog"))
    assert f"({', '.join(choices)})" in str(refused.value)
    assert "(cat, dog)" in str(refused.value)


def test_a_prediction_names_the_configs_own_tags() -> None:
    assert prediction_result(CONFIG, "cat", 0.5) == [
        {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["cat"]},
            "score": 0.5,
        }
    ]


def test_a_prediction_of_a_class_that_the_config_lacks_is_refused() -> None:
    with pytest.raises(LabelConfigError, match="'frog'"):
        prediction_result(CONFIG, "frog")


def test_skipped_and_empty_answers_can_be_told_apart() -> None:
    def answer(number: int, label: str | None, *, was_skipped: bool = False) -> Annotation:
        return Annotation(number, 1, "i", 1, label, was_skipped, "2026-01-01T00:00:00Z")

    answers = [answer(7, "cat"), answer(8, None), answer(9, None, was_skipped=True)]
    assert {a.annotation_id: a.digest for a in answers} == {7: "cat", 8: "(empty)", 9: "(skipped)"}


def test_a_label_that_was_made_ground_truth_is_a_change() -> None:
    answer = Annotation(7, 1, "i", 1, "cat", was_skipped=False, updated_at="2026-01-01T00:00:00Z")
    starred = replace(answer, is_ground_truth=True)
    assert answer.digest != starred.digest


@pytest.mark.parametrize("also", [{}, {"asked_probs": [0.5, 0.5]}], ids=["the first", "the last"])
def test_annotations_that_an_earlier_release_kept_are_read_anew(
    tmp_path: Path, also: dict[str, Any]
) -> None:
    row = Annotation(7, 1, "i", 1, "cat", was_skipped=False, updated_at="2026-01-01T00:00:00Z")
    kept = {"read_at": "2026-01-01T00:00:00Z", "tasks": {"1": [asdict(row) | also]}}
    (tmp_path / "answers.json").write_text(json.dumps(kept))
    store = ProjectStore(tmp_path)
    store.record(trained_at=1.0)  # the first writing takes over what there is
    assert (store.annotations(), store.tasks(), store.facts().read_at) == ({}, [], 0)
    answered, waiting = (Task(i, "i", is_open=i == 2, awaits_second_opinion=False) for i in (1, 2))
    readings = [TaskReading(answered, "2026", (row,), None), TaskReading(waiting, "2026", (), None)]
    store.record_tasks(readings, 2.0)
    assert store.annotations() == {1: [row]}
    assert store.tasks() == [answered, waiting]


# Webhooks


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
def test_a_webhook_says_whose_annotations_changed(payload: dict[str, Any]) -> None:
    event = read_webhook({**payload, "project": {"id": 25}})
    assert event == WebhookEvent("annotations", 25)


def test_start_training_is_told_from_the_rest() -> None:
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
def test_a_webhook_that_changes_nothing_for_us_is_ignored(payload: dict[str, Any]) -> None:
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
    ("payload", "answered"),
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
def test_a_webhook_names_the_images_that_were_answered(
    payload: dict[str, Any], answered: tuple[str, ...]
) -> None:
    assert read_webhook({**payload, "project": {"id": 25}}).answered == answered


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
def test_anything_else_is_no_project(project: object) -> None:
    with pytest.raises(ValueError, match="project"):
        project_id_of(project)


# What errors become


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that gives everybody the same answer, with a session cookie as Label Studio's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Set-Cookie", "sessionid=a-session")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def message_of(url: str, api_key: str = TOKEN) -> str:
    with pytest.raises(LabelStudioError) as error:
        LabelStudioProject(url, api_key, 1).model_version()
    return str(error.value)


def test_a_refused_token_names_the_setting_and_neither_token_nor_cookie() -> None:
    with answering(401, json.dumps({"detail": "Invalid token."}).encode()) as url:
        message = message_of(url)
    assert "LABEL_STUDIO_API_KEY" in message
    assert "Invalid token." in message
    assert TOKEN not in message
    assert "a-session" not in message


def test_other_refusals_give_label_studios_reason() -> None:
    with answering(404, json.dumps({"detail": "No Project matches"}).encode()) as url:
        assert message_of(url) == f"Label Studio at {url} answered 404: No Project matches"


def test_a_refused_private_address_names_the_setting_of_label_studio() -> None:
    reason = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
    with answering(403, json.dumps({"detail": reason}).encode()) as url:
        assert "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false" in message_of(url)


@pytest.mark.parametrize("status", [200, 302, 500])
def test_something_else_on_that_port_is_told_from_label_studio(status: int) -> None:
    with answering(status, b"<html>hello</html>") as url:
        assert message_of(url) == f"{url} does not answer like Label Studio: check LABEL_STUDIO_URL"


def test_a_server_that_is_down_is_named_with_its_address() -> None:
    with answering(200, b"{}") as url:
        pass
    message = message_of(url)
    assert url in message
    assert "check that it runs" in message


@pytest.mark.parametrize("url", ["http://", "http://[", "http://no host"])
def test_an_address_that_is_none_is_an_error_for_people_too(url: str) -> None:
    assert "LABEL_STUDIO_URL" in message_of(url)


@pytest.mark.parametrize("api_key", ["", "two words", "line\n", "schlüssel"])
def test_a_token_that_cannot_be_one_is_refused_before_it_is_sent(api_key: str) -> None:
    message = message_of("http://127.0.0.1:1", api_key)
    assert "LABEL_STUDIO_API_KEY" in message
    assert not api_key or api_key not in message


def test_an_expired_personal_token_is_told_as_a_refused_one() -> None:
    # {"alg":"HS256"} . {"exp":1} . a signature that nobody checks
    expired = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln"
    message = message_of("http://127.0.0.1:1", expired)
    assert "LABEL_STUDIO_API_KEY" in message
    assert expired not in message
