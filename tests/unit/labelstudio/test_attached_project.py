"""Translate version names and image ids between an attached project and Tightloop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from backend.base.labeling import Prediction, TaskOrder
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.label_config import label_config_xml


class LabelStudioStandIn(HTTPServer):
    """Records requests, and answers each path with the JSON in `answers`."""

    requests: list[tuple[str, str, Any]]
    answers: dict[str, Any]


class Handler(BaseHTTPRequestHandler):
    server: LabelStudioStandIn

    def _answer(self) -> None:
        length = int(self.headers["Content-Length"] or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.requests.append((self.command, parts.path, body if body else query))
        content = json.dumps(self.server.answers.get(parts.path, {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[LabelStudioStandIn]:
    with LabelStudioStandIn(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.answers = {
            "/api/projects/12/": {"label_config": label_config_xml(["cat", "dog"])},
            "/api/projects/12/import/predictions": {"created": 1},
        }
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def project(server: LabelStudioStandIn) -> AttachedProject:
    return AttachedProject(f"http://127.0.0.1:{server.server_port}", "token", 12)


def test_our_versions_carry_the_projects_name_in_label_studio(
    project: AttachedProject, server: LabelStudioStandIn
) -> None:
    project.import_predictions({5: Prediction("cat", 0.9, 0.1, "r0001")})
    project.switch_model_version("r0001h02")
    project.delete_predictions("r0000")
    sent = [body for command, _, body in server.requests if command != "GET"]
    assert sent[0][0]["model_version"] == "tl12-r0001"
    assert sent[1:] == [{"model_version": "tl12-r0001h02"}, {"model_version": "tl12-r0000"}]


def test_the_teams_versions_are_not_listed(
    project: AttachedProject, server: LabelStudioStandIn
) -> None:
    server.answers["/api/projects/12/model-versions/"] = {
        "tl12-r0001": 5, "tl12-r0000": 2, "r0001": 9, "tl1-r0003": 1, "tl12-mine": 4, "yolo": 3,
        "tl12-": 1, "tl12-r0002": 0,
    }  # fmt: skip
    assert project.model_versions() == ["r0001", "r0000"]


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("tl12-r0007", "r0007"), ("tl12-r0007h01", "r0007h01"), ("", ""), ("yolo", "yolo"),
        ("tl1-r0007", "tl1-r0007"), ("r0007", '"r0007"'),
    ],
)  # fmt: skip
def test_the_teams_version_is_never_taken_for_ours(
    project: AttachedProject, server: LabelStudioStandIn, named: str, found: str
) -> None:
    server.answers["/api/projects/12/"] = {
        "model_version": named,
        "sampling": "Sequential sampling",
        "maximum_annotations": 2,
        "total_predictions_number": 7,
    }
    assert project.model_version() == found
    assert project.task_order() == TaskOrder(
        is_by_confidence=False, model_version=found, annotations_per_task=2
    )


def test_open_tasks_are_read_by_id_with_one_request_for_500_tasks(
    project: AttachedProject, server: LabelStudioStandIn
) -> None:
    task = {"id": 5, "total_annotations": 0, "cancelled_annotations": 0, "is_labeled": False}
    server.answers["/api/tasks/"] = {"tasks": [task], "total": 1}
    [found, _] = project.open_tasks(among={*range(1, 502)})
    assert found.image_id == "ls-5"
    selected = [json.loads(query["query"])["selectedItems"] for _, _, query in server.requests]
    assert selected == [
        {"all": False, "included": [*range(1, 501)]},
        {"all": False, "included": [501]},
    ]
    assert "data" not in server.requests[0][2]["include"].split(",")


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("yolo, tl12-r0001,r0001", {5}), ("yolo,r0001", set()), ("tl12-r0001h02", set()),
        ("tl1-r0001", set()),
    ],
)  # fmt: skip
def test_a_task_is_predicted_only_by_our_version_of_this_name(
    project: AttachedProject, server: LabelStudioStandIn, listed: str, found: set[int]
) -> None:
    tasks = [{"id": 5, "predictions_model_versions": listed}]
    server.answers["/api/tasks/"] = {"tasks": tasks, "total": 1}
    assert project.predicted_by("r0001", [5]) == found
    [(_, _, query)] = server.requests
    [like_it] = json.loads(query["query"])["filters"]["items"][1:]
    assert (like_it["operator"], like_it["value"]) == ("contains", ["tl12-r0001"])


def test_no_request_is_sent_if_no_task_is_wanted(
    project: AttachedProject, server: LabelStudioStandIn
) -> None:
    assert project.open_tasks(among=()) == []
    assert server.requests == []
