"""Record a project of the release at commit 3e066a8: its files, its keys in Redis, and its data in
Label Studio.

    git worktree add ../earlier 3e066a8
    cp -r tests/integration/earlier_release ../earlier/tests/integration/
    cd ../earlier && make install
    .venv/bin/python -m tests.integration.earlier_release.record OUT

It runs only in a checkout of that commit, and takes five minutes: three people label the digits, a
version is rolled back, a review is pushed and half done. Then it stops the workers and writes
everything but weights and secrets to OUT. Addresses of this machine become the default ones.
Each run records other ids, times and annotations.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import redis
from sklearn.datasets import load_digits

from scripts.research.accounts import PASSWORD, invite_link, log_in, sign_up
from tests.integration.conftest import ROOT, Stack, running_stack
from tests.integration.people import Person
from tests.patience import wait_for

log = logging.getLogger(__name__)

COMMIT = "3e066a8"
COMMAND = "python -m tests.integration.earlier_release.record OUT"
SETTINGS = {
    "POOL": "digits",
    "WEIGHTS": "none",
    "IMAGE_SIZE": "32",
    "SEED_LABELS": "60",
    "BATCH_SIZE": "10",
    "RETRAIN_AFTER": "10",
    "RETRAIN_WAIT": "100000000",  # years: a recording waits long for its test
    "TRAIN": "both",
    "OVERLAP": "auto",
    "LABEL_STUDIO_TASK_LOCK_TTL": "60",
}
EMAILS = ("ada@example.org", "grace@example.org")
URLS = {"label_studio_url": "http://127.0.0.1:8080", "backend_url": "http://127.0.0.1:9090"}
WORKERS = ("clock", "ranker", "trainer")
LAST_ROUND = 6
PUSHED, REVIEWED, NEW = 4, 2, 3
# With WEIGHTS=none this release reads folds.json and never writes it. Its own code does so here,
# with a random body.
WRITE_FOLDS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from backend import labels, resnet
from backend.labelstudio import LabelingProject, match_classes
from backend.loop import open_loop
from backend.settings import load_settings

settings, project_id = load_settings(), int(sys.argv[1])
key = settings.label_studio_api_key.get_secret_value()
project = LabelingProject(settings.label_studio_url, key, project_id)
loop = open_loop(settings, project_id, project)
weights = Path(sys.argv[2])
torch.save(resnet.build(len(loop.pool.classes), None, seed=1).state_dict(), weights)
names = match_classes(project.label_config().choices, loop.pool.classes)
loop = replace(loop, weights=str(weights), data_dir=weights.parent)
labels.read_labels(loop, project.annotations(), names, lambda *_: None)
"""

PROJECT_FIELDS = (
    "id", "title", "description", "label_config", "expert_instruction", "sampling",
    "show_collab_predictions", "model_version", "maximum_annotations", "created_at",
)  # fmt: skip
TASK_FIELDS = ("id", "data", "overlap", "is_labeled", "created_at", "updated_at")
ANNOTATION_FIELDS = (
    "id", "completed_by", "was_cancelled", "ground_truth", "lead_time", "created_at", "updated_at",
    "result",
)  # fmt: skip
PREDICTION_FIELDS = ("model_version", "score", "result")


@dataclass
class Annotator:
    """A person who labels."""

    person: Person
    user_id: int

    def annotate(self, task: Mapping[str, Any], label: str | None, lead_time_s: float) -> int:
        """Submit a label, or skip with None; the model's guess is accepted if it matches."""
        version = self.person.get(f"/api/projects/{task['project']}/")["model_version"]
        shown = [p for p in task["predictions"] if p["model_version"] == version]
        guess = shown[0]["result"][0]["value"]["choices"][0] if shown else None
        origin = "manual"
        if guess is not None:
            origin = "prediction" if guess == label else "prediction-changed"
        region = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "origin": origin,
            "value": {"choices": [label]},
        }
        body = {
            "result": [] if label is None else [region],
            "was_cancelled": label is None,
            "lead_time": lead_time_s,
            "parent_prediction": shown[0]["id"] if shown else None,
        }
        path = f"/api/tasks/{task['id']}/annotations/"
        return int(self.person.http.post(path, json=body).raise_for_status().json()["id"])


@dataclass
class Story:
    """The steps that the recorded project goes through."""

    stack: Stack
    crew: Sequence[Annotator]
    turns: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def lead(self) -> Person:
        return self.crew[0].person

    @property
    def project_id(self) -> int:
        return self.lead.project_id

    @property
    def root(self) -> Path:
        return Path(self.stack.info["model_dir"]) / f"p{self.project_id}"

    @property
    def review_id(self) -> int:
        return int(self.read_review()["project_id"])

    def read_review(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "review.json").read_text()))

    def redis(self) -> Any:
        return redis.Redis.from_url(self.stack.info["redis_url"], decode_responses=True)

    def tasks(self, project_id: int | None = None) -> list[dict[str, Any]]:
        return read_tasks(self.lead, project_id or self.project_id)

    def rest(self, round_: int) -> dict[str, Any]:
        """Wait until the workers have nothing left to do; return the status."""

        def rested() -> dict[str, Any] | None:
            status = self.lead.status()
            kept = self.redis().hgetall(f"tightloop:p{self.project_id}:generation")
            is_read = kept.get("refitted") == kept.get("generation")
            project = self.lead.get(f"/api/projects/{self.project_id}/")
            is_rested = (
                status["round"] >= round_
                and not status["jobs"]
                and is_read
                and status["new_annotations"] < status["retrain_after"]
                and project["model_version"] == status["version"]
                and sum(map(is_open, self.tasks())) >= int(SETTINGS["BATCH_SIZE"])
            )
            return status if is_rested else None

        status = wait_for(rested, f"round {round_} and rest", every_s=1)
        log.info("%s: %s annotations", status["version"], status["annotations"])
        return status

    def label(self, n_tasks: int) -> None:
        """Label a number of tasks in turn, first those that await a second opinion, except the last
        of those.
        """
        waiting = [task for task in self.tasks() if awaits_second_opinion(task)][:-1]
        for task in [*waiting, *filter(is_open, self.tasks())][:n_tasks]:
            turn = next(self.turns)
            labeled_by = {a["completed_by"] for a in task["annotations"]}
            free = [someone for someone in self.crew if someone.user_id not in labeled_by]
            someone = free[turn % len(free)]
            label = truth(task)
            if turn % 5 == 0:  # each of the three is wrong now and then
                label = str((int(label) + 1) % 10)
            someone.annotate(task, None if turn % 11 == 0 else label, 1.5 + turn % 7)

    def label_until(self, round_: int) -> None:
        """Label five tasks at a time, so that heads come in between, and ten for each round."""
        while (status := self.rest(0))["round"] < round_:
            self.label(min(5, status["retrain_after"] - status["new_annotations"]))

    def write_folds(self) -> None:
        """Let this release write its predictions for images that were asked without a model."""
        weights = self.stack.folder / "folds.pth"
        command = [sys.executable, "-c", WRITE_FOLDS, str(self.project_id), str(weights)]
        subprocess.run(command, env=self.stack.environment, cwd=ROOT, check=True)

    def star(self) -> None:
        """Make one correct annotation ground truth."""
        right = [
            annotation
            for task in self.tasks()
            for annotation in task["annotations"]
            if task["data"]["asked_by"] != "seed" and label_of(annotation) == truth(task)
        ]
        self._set_ground_truth(right[2]["id"], True)

    def roll_back_while_label_studio_is_away(self) -> None:
        """Cause an error that people see, and promote a version a second time."""
        newest = self.lead.status()["version"]
        with self.stack.without("label-studio"):
            self.run("scripts.models", "promote", "r0001")
            errors = f"tightloop:p{self.project_id}:errors"
            wait_for(lambda: self.redis().llen(errors), "an error")
        url = self.stack.info["label_studio_url"]
        wait_for(lambda: is_up(f"{url}/health"), "Label Studio")
        self.rest(0)
        self.run("scripts.models", "promote", newest)
        self.rest(0)

    def review(self) -> None:
        """Push a review, do part of it, and undo one of the resulting ground truths."""
        self.run("scripts.review", "--push", "--count", str(PUSHED))
        asked = self.tasks(self.review_id)
        assert len(asked) == PUSHED, f"{len(asked)} labels are contradicted"
        for task in asked[:REVIEWED]:
            self.crew[-1].annotate(task, truth(task), 4.0)

        wait_for(lambda: len(self.read_review()["collected"]) == REVIEWED, "the review collected")
        image_id = asked[REVIEWED - 1]["data"]["image_id"]
        [taken_back] = [
            annotation["id"]
            for task in self.tasks()
            for annotation in task["annotations"]
            if task["data"]["image_id"] == image_id and annotation["ground_truth"]
        ]
        self._set_ground_truth(taken_back, False)

    def run(self, module: str, *arguments: str) -> str:
        done = self.stack.run(module, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _set_ground_truth(self, annotation_id: int, is_ground_truth: bool) -> None:
        path, body = f"/api/annotations/{annotation_id}/", {"ground_truth": is_ground_truth}
        self.lead.http.patch(path, json=body).raise_for_status()


def main() -> None:
    """Run the story and record the project."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    out = Path(sys.argv[1])
    with running_stack(**SETTINGS) as stack:
        story = Story(stack, join(stack))
        story.label_until(2)
        story.write_folds()
        story.label_until(3)
        story.star()
        story.label_until(4)
        story.roll_back_while_label_studio_is_away()
        story.label_until(5)
        story.review()
        story.label_until(LAST_ROUND)
        story.label(NEW)
        story.rest(LAST_ROUND)
        with without_workers(stack):
            save(story, out)


def join(stack: Stack) -> list[Annotator]:
    """Return the admin and the people who join by the invite link."""
    info = stack.info
    url = info["label_studio_url"]
    admin = Person(stack)
    crew = [Annotator(admin, int(admin.get("/api/current-user/whoami")["id"]))]
    link = invite_link(url, info["api_key"])
    for email in EMAILS:
        assert sign_up(url, link, email).status_code == 302
        user_id, token = log_in(url, email)
        crew.append(Annotator(Person(SimpleNamespace(info={**info, "api_key": token})), user_id))
    return crew


@contextmanager
def without_workers(stack: Stack) -> Iterator[None]:
    """Stop all processes that would change the project meanwhile."""
    with ExitStack() as stopped:
        for name in WORKERS:
            stopped.enter_context(stack.without(name))
        yield


def save(story: Story, out: Path) -> None:
    """Write the recording in readable files."""
    texts = read_kept(story)
    check_is_whole(story, texts)
    info, port = story.stack.info, story.stack.settings.label_studio_port
    renamed = {info[key]: public for key, public in URLS.items()}
    renamed[f"localhost:{port}"] = "localhost:8080"
    for name, text in texts.items():
        for private, public in renamed.items():
            text = text.replace(private, public)
        check_is_public(story, name, text)
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n")


def read_kept(story: Story) -> dict[str, str]:
    """Return the texts to record by file name."""
    folder, lead = f"p{story.project_id}", story.lead
    files = [*story.root.glob("*.json"), *story.root.glob("r*/meta.json"), story.root / "current"]
    users = [
        {name: user[name] for name in ("id", "email", "first_name", "last_name")}
        for user in lead.get("/api/users/")
    ]
    made = {
        "commit": COMMIT,
        "command": COMMAND,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "label_studio": lead.get("/api/version")["label-studio-os-package"]["version"],
        "settings": SETTINGS,
    }
    texts = {f"{folder}/{path.relative_to(story.root)}": path.read_text() for path in sorted(files)}
    texts |= {
        "made.json": json.dumps(made, indent=1),
        "redis.json": rows_of_json(read_redis(story.redis())),
        "status.json": json.dumps(lead.status(), indent=1),
        "models.txt": story.run("scripts.models", "list"),
        "label_studio/users.json": rows_of_json(users),
    }
    for name, project_id in (("project", story.project_id), ("review", story.review_id)):
        project, tasks = read_project(lead, project_id), read_project_tasks(lead, project_id)
        texts[f"label_studio/{name}.json"] = json.dumps(project, indent=1)
        texts[f"label_studio/{name}_tasks.json"] = rows_of_json(tasks)
    return texts


def read_project(person: Person, project_id: int) -> dict[str, Any]:
    """Return a project's settings, without its tasks."""
    found = person.get(f"/api/projects/{project_id}/")
    return {name: found[name] for name in PROJECT_FIELDS}


def read_project_tasks(person: Person, project_id: int) -> list[dict[str, Any]]:
    """Return a project's tasks with annotations and predictions, oldest first."""
    return [
        {
            **{name: task[name] for name in TASK_FIELDS},
            "annotations": [
                {name: annotation[name] for name in ANNOTATION_FIELDS}
                for annotation in sorted(task["annotations"], key=lambda a: a["id"])
            ],
            "predictions": [
                {name: prediction[name] for name in PREDICTION_FIELDS}
                for prediction in sorted(task["predictions"], key=lambda p: p["id"])
            ],
        }
        for task in read_tasks(person, project_id)
    ]


def read_tasks(person: Person, project_id: int) -> list[dict[str, Any]]:
    """Return a project's tasks as Label Studio lists them, oldest first."""
    found = person.get("/api/tasks/", project=project_id, page_size=1000, fields="all")
    return sorted(found["tasks"], key=lambda task: int(task["id"]))


def read_redis(connection: Any) -> dict[str, dict[str, Any]]:
    """Return our own keys with their types and values."""
    read: dict[str, Callable[[str], Any]] = {
        "string": connection.get,
        "hash": connection.hgetall,
        "list": lambda key: connection.lrange(key, 0, -1),
        "zset": lambda key: dict(connection.zrange(key, 0, -1, withscores=True)),
    }
    kinds = {key: connection.type(key) for key in sorted(connection.keys("tightloop:*"))}
    return {key: {"type": kind, "value": read[kind](key)} for key, kind in kinds.items()}


def check_is_whole(story: Story, texts: Mapping[str, str]) -> None:
    """Fail if the story left out what a later release must be able to read."""
    folder, status = f"p{story.project_id}", json.loads(texts["status.json"])
    missing = [
        name
        for name in ("project", "seen", "answers", "open", "folds", "annotators", "review")
        if f"{folder}/{name}.json" not in texts
    ]
    assert not missing, missing
    tasks = story.tasks()
    given = [a for task in tasks for a in task["annotations"]]
    by_image: dict[str, set[int]] = defaultdict(set)
    for task in tasks:
        if task["data"]["asked_by"] != "seed":
            by_image[task["data"]["image_id"]] |= {a["completed_by"] for a in task["annotations"]}
    seen = json.loads(texts[f"{folder}/seen.json"])
    kept = json.loads(texts[f"{folder}/answers.json"])["tasks"]
    assert len(given) == sum(map(len, kept.values())), "answers.json lacks some"
    assert status["new_annotations"] == NEW == len(given) - len(seen), (
        "wrong number of new annotations"
    )
    assert any(a["was_cancelled"] for a in given), "nobody skipped"
    assert sum(len(people) > 1 for people in by_image.values()) >= 3, "too few second opinions"
    assert any(map(awaits_second_opinion, tasks)), "no image waits for a second person"
    assert sum(a["ground_truth"] for a in given) == REVIEWED, "not one star and one review"
    assert any(point["is_head"] and point["is_current"] for point in status["learning_curve"])
    assert status["errors"], "no error is kept"


def check_is_public(story: Story, name: str, text: str) -> None:
    """Fail if a text holds a secret, or a path of this machine."""
    endings = ("_KEY", "_PASSWORD", "_SECRET")
    environment = story.stack.environment.items()
    secrets = [v for k, v in environment if k.endswith(endings) and len(v) > 7]
    tokens = [s.person.http.headers["Authorization"].split()[-1] for s in story.crew]
    places = [str(story.stack.folder), "tightloop-test", str(ROOT), str(Path.home()), "/tmp/"]
    private = [PASSWORD, *secrets, *tokens, *places]
    assert not [word for word in private if word in text], f"{name} is not for others"


def is_open(task: Mapping[str, Any]) -> bool:
    """Check that a task is neither annotated nor skipped."""
    return not task["annotations"]


def awaits_second_opinion(task: Mapping[str, Any]) -> bool:
    """Check that a task has an annotation and waits for another annotator's."""
    return bool(task["total_annotations"]) and not task["is_labeled"]


def label_of(annotation: Mapping[str, Any]) -> str | None:
    """Return the label of an annotation; None if it was skipped."""
    return annotation["result"][0]["value"]["choices"][0] if annotation["result"] else None


def truth(task: Mapping[str, Any]) -> str:
    """Return the digit that the image of a task shows."""
    return str(load_digits().target[int(task["data"]["image_id"].removeprefix("digits-"))])


def is_up(url: str) -> bool:
    """Check that a service is up."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def rows_of_json(rows: Sequence[Any] | Mapping[str, Any]) -> str:
    """Return JSON with one row per line: short, and easy to compare."""
    if isinstance(rows, Mapping):
        inner = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rows.items()]
        return "{\n" + ",\n".join(inner) + "\n}"
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"


if __name__ == "__main__":
    main()
