"""Restore a recording of an earlier release to Label Studio, Redis and the model folder of a stack.

Label Studio assigns new ids, which replace the recorded ones in the files. Weights were not
recorded: they are zeros, so the scores of the open images are derived from the recorded guesses.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import redis

from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.store.tensor_file import body_key, write_tensors
from scripts.research.accounts import invite_link, log_in, sign_up
from tests.integration.conftest import Stack
from tests.integration.earlier_release.record import read_project_tasks
from tests.integration.earlier_release.recording import Recording
from tests.integration.people import Person

DTYPES = {"F32": np.float32, "I64": np.int64}
Ids = dict[int, int]  # recorded -> rebuilt


@dataclass
class Rebuilt:
    """The ids that Label Studio assigned, and everyone's access token."""

    projects: Ids = field(default_factory=dict)
    users: Ids = field(default_factory=dict)
    tasks: Ids = field(default_factory=dict)
    annotations: Ids = field(default_factory=dict)
    updated_at: dict[int, str] = field(default_factory=dict)  # by rebuilt annotation
    created_at: str = ""  # of the project
    read_at: datetime = datetime.min
    tokens: dict[int, str] = field(default_factory=dict)  # by rebuilt user


def rebuild(stack: Stack, recording: Recording) -> Rebuilt:
    """Restore the recording to a stack that was never started."""
    with _services(stack) as info:
        made = Rebuilt()
        with Person(SimpleNamespace(info=info)) as admin:
            _make_users(admin, info, recording, made)
            _make_projects(admin, recording, made)
            _make_tasks(admin, recording, made)
            _annotate(info, recording, made)
            _finish_projects(admin, recording, made)
        _fill_redis(info["redis_url"], recording, made)
    _fill_model_folder(stack, recording, made)
    return made


@contextmanager
def _services(stack: Stack) -> Iterator[dict[str, Any]]:
    """Run PostgreSQL, Redis and Label Studio without any process of ours; yield their addresses."""
    started = stack.run("tests.integration.services", "without-backend")
    assert started.returncode == 0, started.stdout + started.stderr + stack.logs()
    environment = stack.environment
    try:
        yield {
            "label_studio_url": environment["LABEL_STUDIO_URL"],
            "api_key": environment["LABEL_STUDIO_API_KEY"],
            "redis_url": environment["REDIS_URL"],
            "backend_url": environment["BACKEND_URL"],
            "project_id": 0,
        }
    finally:
        stack.down()


def _make_users(
    admin: Person, info: Mapping[str, Any], recording: Recording, made: Rebuilt
) -> None:
    url, first = info["label_studio_url"], recording.users[0]
    me = admin.get("/api/current-user/whoami")
    assert me["email"] == first["email"]
    made.users[first["id"]] = me["id"]
    made.tokens[me["id"]] = info["api_key"]
    link = invite_link(url, info["api_key"])
    for user in recording.users[1:]:
        assert sign_up(url, link, user["email"]).status_code == 302
        user_id, token = log_in(url, user["email"])
        made.users[user["id"]] = user_id
        made.tokens[user_id] = token


def _make_projects(admin: Person, recording: Recording, made: Rebuilt) -> None:
    for project in (recording.project, recording.review):
        body = {k: v for k, v in project.items() if k not in ("id", "created_at", "model_version")}
        answer = admin.http.post("/api/projects/", json=body).raise_for_status().json()
        made.projects[project["id"]] = answer["id"]
        if project is recording.project:
            made.created_at = answer["created_at"]


def _make_tasks(admin: Person, recording: Recording, made: Rebuilt) -> None:
    """Import all tasks in the order of their ids; seeds come with their label."""
    both = [(project["id"], task) for project, tasks in _tasks(recording) for task in tasks]
    both.sort(key=lambda pair: int(pair[1]["id"]))
    for recorded_id, pairs in groupby(both, key=itemgetter(0)):
        body = [
            {
                "data": task["data"],
                "predictions": task["predictions"],
                "annotations": [
                    {
                        "result": first["result"],
                        "ground_truth": first["ground_truth"],
                        "completed_by": made.users[first["completed_by"]],
                    }
                    for first in _imported(task)
                ],
            }
            for _, task in pairs
        ]
        path = f"/api/projects/{made.projects[recorded_id]}/import"
        admin.http.post(path, json=body).raise_for_status()
    for project, tasks in _tasks(recording):
        there = read_project_tasks(admin, made.projects[project["id"]])
        for recorded, task in zip(tasks, there, strict=True):
            assert task["data"] == recorded["data"]
            made.tasks[recorded["id"]] = task["id"]
            for first, imported in zip(_imported(recorded), task["annotations"], strict=True):
                made.annotations[first["id"]] = imported["id"]


def _annotate(info: Mapping[str, Any], recording: Recording, made: Rebuilt) -> None:
    """Submit all annotations in their annotators' names and in the order of their ids."""
    given = [
        (task["id"], annotation)
        for _, tasks in _tasks(recording)
        for task in tasks
        for annotation in task["annotations"]
        if annotation not in _imported(task)
    ]
    with ExitStack() as leaving:
        people = {
            user: leaving.enter_context(
                Person(SimpleNamespace(info={**info, "api_key": made.tokens[user]}))
            )
            for user in made.users.values()
        }
        for task_id, annotation in sorted(given, key=lambda pair: int(pair[1]["id"])):
            fields = ("result", "was_cancelled", "ground_truth", "lead_time")
            answer = people[made.users[annotation["completed_by"]]].http.post(
                f"/api/tasks/{made.tasks[task_id]}/annotations/",
                json={name: annotation[name] for name in fields},
            )
            made.annotations[annotation["id"]] = answer.raise_for_status().json()["id"]


def _finish_projects(admin: Person, recording: Recording, made: Rebuilt) -> None:
    """Reopen tasks for second opinions and set the version that orders them; then all tasks must be
    as recorded.
    """
    project_id = made.projects[recording.project["id"]]
    there = {task["id"]: task for task in read_project_tasks(admin, project_id)}
    for task in recording.tasks:
        wanted = {name: task[name] for name in ("overlap", "is_labeled")}
        now = there[made.tasks[task["id"]]]
        if any(now[name] != value for name, value in wanted.items()):
            admin.http.patch(f"/api/tasks/{now['id']}/", json=wanted).raise_for_status()
    admin.http.patch(
        f"/api/projects/{project_id}/",
        json={"model_version": recording.project["model_version"]},
    ).raise_for_status()
    made.read_at = datetime.now(UTC)
    for project, recorded in _tasks(recording):
        rebuilt = read_project_tasks(admin, made.projects[project["id"]])
        made.updated_at |= {
            annotation["id"]: annotation["updated_at"]
            for task in rebuilt
            for annotation in task["annotations"]
        }
        assert [_timeless(task) for task in rebuilt] == [_timeless(task, made) for task in recorded]


def _timeless(task: Mapping[str, Any], made: Rebuilt | None = None) -> dict[str, Any]:
    """Return a task without the times that Label Studio sets, and with the ids that it assigned."""
    times = ("created_at", "updated_at")
    rows = [{k: v for k, v in row.items() if k not in times} for row in task["annotations"]]
    if made is not None:
        for row in rows:
            row["id"] = made.annotations[row["id"]]
            row["completed_by"] = made.users[row["completed_by"]]
    return {
        **{k: v for k, v in task.items() if k not in times},
        "id": task["id"] if made is None else made.tasks[task["id"]],
        "annotations": sorted(rows, key=itemgetter("id")),
    }


def _fill_redis(url: str, recording: Recording, made: Rebuilt) -> None:
    folder, new_folder = (f":p{i}:" for i in _project_ids(recording, made))
    with redis.Redis.from_url(url) as connection:
        for key, kept in recording.json("redis.json").items():
            name, value = key.replace(folder, new_folder), kept["value"]
            match kept["type"]:
                case "string":
                    connection.set(name, value)
                case "hash":
                    connection.hset(name, mapping=value)
                case "list":
                    connection.rpush(name, *value)
                case "zset":
                    connection.zadd(name, value)
                case other:
                    raise AssertionError(f"{key} is a {other}")


def _fill_model_folder(stack: Stack, recording: Recording, made: Rebuilt) -> None:
    """Copy the recorded files with the new ids, and add weights of zeros and the open images'
    scores.
    """
    _, project_id = _project_ids(recording, made)
    root = stack.folder / "models" / f"p{project_id}"
    shutil.copytree(recording.model_files, root)
    changes = {
        "project.json": {
            "project_id": project_id,
            "project_created_at": made.created_at,
            "label_studio_url": f"http://127.0.0.1:{stack.settings_given['LABEL_STUDIO_PORT']}",
        },
        "review.json": {"project_id": made.projects[recording.review["id"]]},
    }
    for name, change in changes.items():
        _rewrite(root / name, json.loads((root / name).read_text()) | change)
    seen = json.loads((root / "seen.json").read_text())
    _rewrite(root / "seen.json", {made.annotations[int(i)]: digest for i, digest in seen.items()})
    answers = json.loads((root / "answers.json").read_text())
    _rewrite(
        root / "answers.json",
        {
            "read_at": made.read_at.isoformat(),
            "tasks": {
                made.tasks[int(task_id)]: [_kept_annotation(row, made) for row in rows]
                for task_id, rows in answers["tasks"].items()
            },
        },
    )
    figures = json.loads((root / "annotators.json").read_text())
    _rewrite(root / "annotators.json", [with_rebuilt_person(row, made) for row in figures])
    _write_zeros(root)
    _write_scores(root, recording)


def with_rebuilt_person(row: Mapping[str, Any], made: Rebuilt) -> dict[str, Any]:
    """Return an annotator's figures under their new id."""
    return {**row, "annotator": made.users[row["annotator"]]}


def _kept_annotation(row: Mapping[str, Any], made: Rebuilt) -> dict[str, Any]:
    annotation_id = made.annotations[row["annotation_id"]]
    who = row["annotator"]
    return {
        **row,
        "annotation_id": annotation_id,
        "task_id": made.tasks[row["task_id"]],
        "annotator": made.users[who] if who else who,
        "updated_at": made.updated_at[annotation_id],
    }


def _write_zeros(root: Path) -> None:
    """Write weights for all versions, oldest first; those of a kind are hard links to one file."""
    key = ""
    first: dict[bool, tuple[Path, str]] = {}
    for path in sorted(root.glob("r*/meta.json")):
        meta, weights = json.loads(path.read_text()), path.with_name("model.safetensors")
        is_head = "h" in meta["version"]
        if is_head not in first:
            layout = resnet18(len(meta["classes"]))
            state = {
                name: np.zeros(kind.shape, DTYPES[kind.dtype])
                for name, kind in layout.items()
                if name in HEAD_TENSORS or not is_head
            }
            key = key or body_key(state)  # a body comes before its heads
            write_tensors(weights, state)
            first[is_head] = weights, hashlib.sha256(weights.read_bytes()).hexdigest()
        else:
            weights.hardlink_to(first[is_head][0])
        _rewrite(path, {**meta, "sha256": first[is_head][1], "body_key": key})


def _write_scores(root: Path, recording: Recording) -> None:
    """Write the probabilities of the open images by the version in service.

    Without them, the first re-ordering after the upgrade would score these images with weights of
    zeros, and `next_images` would depend on when it is read.
    """
    version = recording.status["version"]
    classes = json.loads((root / version / "meta.json").read_text())["classes"]
    images = json.loads((root / "open.json").read_text())["images"]
    probs = np.empty((len(images), len(classes)), np.float32)
    for row, image in zip(probs, images, strict=True):
        guesses = dict(image["guesses"])
        rest = (1 - sum(guesses.values())) / (len(classes) - len(guesses))
        row[:] = [guesses.get(name, rest) for name in classes]
    ids = {"image_ids": json.dumps([image["image_id"] for image in images])}
    write_tensors(root / version / "pool.safetensors", {"probs": probs}, ids)


def _tasks(recording: Recording) -> Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]:
    return (
        (recording.project, recording.tasks),
        (recording.review, recording.review_tasks),
    )


def _imported(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the annotation that a task was imported with, if any."""
    return list(task["annotations"][:1]) if task["data"].get("asked_by") == "seed" else []


def _project_ids(recording: Recording, made: Rebuilt) -> tuple[int, int]:
    recorded = int(recording.project["id"])
    return recorded, made.projects[recorded]


def _rewrite(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
