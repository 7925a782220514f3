"""Create request bodies that Label Studio never sends, each named after its defect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backend.labelstudio.label_config import label_config_xml

ENTITY = '<!DOCTYPE v [<!ENTITY e "x">]>'
BOMB = (
    '<!DOCTYPE v [<!ENTITY a "' + "x" * 1000 + '"><!ENTITY b "' + "&a;" * 1000 + '">]>'
    "<View>&b;</View>"
)
WRONG_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a number": 5,
    "a huge number": 10**400,
    "a text": "x",
    "a list": [1],
    "a list of lists": [[[[]]]],
    "an object": {"a": {"b": 1}},
    "a negative number": -1,
    "a fraction": 1e308,
    "a null character": "\x00",
    "half a surrogate pair": "\ud800",
    "an address elsewhere": "http://192.0.2.1/x.png",
    "an address that logs out": "/logout",
    "a path that climbs": "/data/upload/../../api/users/",
    "100 kB": "x" * 100_000,
    "a data URI of nothing": "data:image/png;base64,",
    "a data URI of junk": "data:image/png;base64,iVBORw0KGgo=",
}


def hostile_bodies(project_id: int, classes: Sequence[str]) -> dict[str, bytes]:
    """Return request bodies by name. Bodies that name a project name this one."""
    whole: dict[str, bytes] = {
        "nothing": b"",
        "JSON nested 2,000 deep": b"[" * 2000 + b"]" * 2000,
        "JSON nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "half a JSON document": b'{"tasks": [',
        "two JSON documents": b"{}{}",
        "NaN": b'{"tasks": NaN, "project": Infinity}',
        "bytes that are not text": b"\xff\xfe{}",
        "UTF-16": '{"project": 1}'.encode("utf-16"),
        "a name twice": b'{"project": 1, "project": "x", "tasks": [], "tasks": 5}',
        "1 MB of blanks": b" " * 1_000_000,
        "a form": b"project=1&version=%00%ff&version=r0001",
    }
    for name, body in _objects(project_id, label_config_xml(classes)):
        whole[name] = json.dumps(body).encode()
    return whole


def _objects(project_id: int, config: str) -> list[tuple[str, Any]]:
    task = {"id": 1, "data": {"image_id": "i1"}}
    predict = {"tasks": [task], "project": f"{project_id}.1", "label_config": config}
    setup = {"project": f"{project_id}.1", "schema": config}
    webhook = {"action": "ANNOTATION_CREATED", "project": {"id": project_id}, "task": task}
    with_entity = config.replace('"$image"', '"$&e;"')
    found: list[tuple[str, Any]] = [
        ("an entity in the label config", {**predict, "label_config": ENTITY + with_entity}),
        ("an unknown entity in the schema", {**setup, "schema": with_entity}),
        ("a label config that expands a thousandfold", {**setup, "schema": BOMB}),
        ("a label config in another encoding",
         {**setup, "schema": '<?xml version="1.0" encoding="utf-7"?>' + config}),
        ("no tasks", {**predict, "tasks": []}),
        ("1,000 tasks", {**predict, "tasks": [task] * 1000}),
    ]  # fmt: skip
    for name, value in WRONG_VALUES.items():
        found.append((f"{name} as the body", value))
        for key in predict:
            found.append((f"{name} as {key} of /predict", {**predict, key: value}))
        for key in setup:
            found.append((f"{name} as {key} of /setup", {**setup, key: value}))
        for key in webhook:
            found.append((f"{name} as {key} of a webhook", {**webhook, key: value}))
        for key in ("data", "id", "project"):
            tasks = [{**task, key: value}]
            found.append((f"{name} as a task's {key}", {**predict, "tasks": tasks}))
        for key in ("image_id", "image"):
            tasks = [{"id": 1, "data": {key: value}}]
            found.append((f"{name} as a task's {key}", {**predict, "tasks": tasks}))
            found.append(
                (f"{name} as a webhook's {key}", {**webhook, "task": {"data": {key: value}}})
            )
        found.append((f"{name} as a webhook's project id", {**webhook, "project": {"id": value}}))
        listed = {"action": "ANNOTATIONS_DELETED", "project": {"id": project_id}}
        found.append((f"{name} as annotations", {**listed, "annotations": value}))
    return found
