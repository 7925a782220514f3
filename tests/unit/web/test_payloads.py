"""A body that Label Studio would not send is refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.unit.web.conftest import (
    AUTH,
    SECRET,
    put_in_service,
)

BAD: dict[str, tuple[str, bytes, str]] = {
    "JSON nested 2,000 deep": ("/predict", b"[" * 2000, "recursion limit"),
    "JSON nested 2,000 deep in a webhook": ("/webhook", b"[" * 2000, "recursion limit"),
    "half a character in image_id": (
        "/predict",
        rb'{"project": "7.1", "tasks": [{"data": {"image_id": "\ud800"}}]}',
        "hex escape",
    ),
    "half a character in a webhook's image_id": (
        "/webhook",
        rb'{"action": "ANNOTATION_CREATED", "project": {"id": 7},'
        rb' "task": {"data": {"image_id": "\udc00"}}}',
        "surrogate",
    ),
    "half a character in the schema": (
        "/setup", rb'{"project": "7.1", "schema": "\ud800"}', "hex escape"
    ),
    "a number as label config": (
        "/predict", b'{"project": "7.1", "tasks": [], "label_config": 5}', "label_config"
    ),
    "a number as schema": ("/setup", b'{"project": "7.1", "schema": 5}', "schema"),
    "a text as a task's data": (
        "/predict", b'{"project": "7.1", "tasks": [{"data": "abc"}]}', "tasks.0"
    ),
    "a text as a task": ("/predict", b'{"project": "7.1", "tasks": ["abc"]}', "tasks.0"),
    "no tasks": ("/predict", b'{"project": "7.1"}', "tasks"),
    "an unknown entity": (
        "/setup", b'{"project": "7.1", "schema": "<View>&e;</View>"}', "is not XML"
    ),
    "an entity that it defines itself": (
        "/setup",
        b'{"project": "7.1", "schema": "<!DOCTYPE v [<!ENTITY e \\"x\\">]><View>&e;</View>"}',
        "is not XML",
    ),
    "a list for the versions": ("/versions", b"[1]", "the body"),
    "a text for the versions": ("/versions", b'"x"', "the body"),
    "a number for the versions": ("/versions", b"5", "the body"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_malformed_body_is_400_with_a_sentence(
    what: str, client: FlaskClient, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_in_service(root)
    path, body, sentence = BAD[what]
    response = client.post(path, data=body, auth=AUTH, headers=SECRET)
    assert response.status_code == 400, response.text
    assert sentence in response.get_json()["error"]
    assert "Traceback" not in caplog.text
