"""Upgrade a project from an earlier release and keep using it.

The tests share one stack and run in this order: before and after people label.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from backend.images.known_labels import true_labels
from backend.labelstudio.label_config import parse_label_config
from tests.integration.conftest import CreateTables, Stack, running_stack
from tests.integration.earlier_release.rebuild import Rebuilt, rebuild, with_rebuilt_person
from tests.integration.earlier_release.record import is_open, label_of, read_tasks
from tests.integration.earlier_release.recording import Recording
from tests.integration.people import Person, pool_of
from tests.patience import wait_for

Task = dict[str, Any]
RECONCILE_EVERY_S = 5
INTERVAL = re.compile(r" +(?P<accuracy>[0-9.]+%) \([0-9.]+% to [0-9.]+%\)")


@dataclass(frozen=True)
class Upgraded:
    """A running stack, its recording, and the ids that the recorded rows have now."""

    stack: Stack
    recording: Recording
    made: Rebuilt

    def person(self, email: str) -> Person:
        """Return one of the recorded people."""
        token = self.made.tokens[self.user_id(email)]
        return Person(SimpleNamespace(info={**self.stack.info, "api_key": token}))

    def user_id(self, email: str) -> int:
        [recorded] = [user["id"] for user in self.recording.users if user["email"] == email]
        return self.made.users[recorded]

    @property
    def review_id(self) -> int:
        """The review project."""
        return self.made.projects[self.recording.review["id"]]

    def versions(self) -> list[str]:
        """Return the lines of `models list` below its heading, one per version.

        The intervals, which are newer than the recording, are left out.
        """
        listed = self.stack.run("scripts.models", "list")
        assert listed.returncode == 0, listed.stderr
        return [
            INTERVAL.sub(lambda found: f"  {found['accuracy']:>10}", line)
            for line in listed.stdout.splitlines()[1:]
        ]

    def names(self) -> list[str]:
        """Return the names of the versions, oldest first."""
        return [line.split()[0] for line in self.versions()]


@pytest.fixture(scope="module")
def upgraded(create_tables: CreateTables) -> Iterator[Upgraded]:
    recording = Recording()
    made: list[Rebuilt] = []

    def prepare(stack: Stack) -> None:
        create_tables(stack)
        made.append(rebuild(stack, recording))

    with running_stack(
        prepare,
        **{**recording.settings, "RECONCILE_EVERY": str(RECONCILE_EVERY_S)},
    ) as stack:
        yield Upgraded(stack, recording, made[0])


@pytest.fixture(scope="module")
def lead(upgraded: Upgraded) -> Iterator[Person]:
    with Person(upgraded.stack) as someone:
        # Tasks and annotations are read from Label Studio again.
        wait_for(lambda: someone.status()["annotations"] is not None, "the first reading")
        yield someone


@pytest.fixture(scope="module")
def ada(upgraded: Upgraded) -> Iterator[Person]:
    with upgraded.person("ada@example.org") as someone:
        yield someone


@pytest.fixture(scope="module")
def grace(upgraded: Upgraded) -> Iterator[Person]:
    with upgraded.person("grace@example.org") as someone:
        yield someone


@pytest.fixture(scope="module")
def truth(upgraded: Upgraded) -> dict[str, str]:
    return true_labels(pool_of(upgraded.stack))


def rest(person: Person) -> dict[str, Any]:
    """Wait until the clock has looked twice, the workers are idle and nothing changes; return the
    status.
    """
    facts = ("versions", "version", "annotations", "new_annotations", "open_tasks")

    def idle() -> dict[str, Any] | None:
        status = person.status()
        return None if status["jobs"] else status

    def rested() -> dict[str, Any] | None:
        first = wait_for(idle, "no job left")
        time.sleep(2 * RECONCILE_EVERY_S)
        then = wait_for(idle, "no job left")
        return then if all(first[fact] == then[fact] for fact in facts) else None

    return wait_for(rested, "nothing left to do")


def open_order(tasks: list[Task], version: str) -> list[tuple[float, str]]:
    """Return the open images, least confident first, by the predictions of a version."""
    return sorted(
        (prediction["score"], task["data"]["image_id"])
        for task in tasks
        if is_open(task) or not task["is_labeled"]
        for prediction in task["predictions"]
        if prediction["model_version"] == version
    )


def awaiting_second_opinion(tasks: list[Task]) -> list[str]:
    """Return the images that have an annotation and wait for another annotator's."""
    return [
        task["data"]["image_id"]
        for task in tasks
        if not task["is_labeled"] and any(map(label_of, task["annotations"]))
    ]


def truths(tasks: list[Task]) -> list[tuple[str, str | None, int]]:
    """Return image, label and annotator of every ground truth."""
    return sorted(
        (task["data"]["image_id"], label_of(a), a["completed_by"])
        for task in tasks
        for a in task["annotations"]
        if a["ground_truth"]
    )


def annotate(person: Person, task: Task, label: str) -> None:
    config = parse_label_config(person.get(f"/api/projects/{task['project']}/")["label_config"])
    person.submit(task["id"], label, config)


def label_open_tasks(person: Person, count: int, truth: dict[str, str]) -> None:
    tasks = [task for task in read_tasks(person, person.project_id) if is_open(task)][:count]
    assert len(tasks) == count
    for task in tasks:
        annotate(person, task, truth[task["data"]["image_id"]])


# Unchanged after the upgrade


def test_the_versions_and_the_one_in_service_are_unchanged(upgraded: Upgraded) -> None:
    assert upgraded.versions() == upgraded.recording.text("models.txt").splitlines()[1:]


@pytest.mark.parametrize(
    "fact",
    [
        "title", "round", "version", "validation", "test", "trained_on_labels", "labels_per_class",
        "versions", "learning_curve", "outlook", "training_seconds", "refused", "broken_versions",
        "annotations", "skipped", "new_annotations", "left_out", "is_finished", "waiting_for",
        "errors", "notices", "pool", "weights",
    ],
)  # fmt: skip
def test_the_status_is_unchanged(upgraded: Upgraded, lead: Person, fact: str) -> None:
    reported = lead.status()[fact]
    if fact == "learning_curve":  # the recording does not know pruned versions
        assert [row.pop("is_pruned") for row in reported] == [False] * len(reported)
    if fact == "errors":  # the recording does not say whether an error is over
        assert [error.pop("is_over") for error in reported] == [True]
    assert reported == upgraded.recording.status[fact]


def test_the_figures_of_each_annotator_are_unchanged(upgraded: Upgraded, lead: Person) -> None:
    recorded = upgraded.recording.status["annotators"]
    assert len(recorded) == 3
    assert lead.status()["annotators"] == [
        with_rebuilt_person(row, upgraded.made) for row in recorded
    ]


def test_three_people_find_five_images_each_and_the_recorded_one_still_awaits_another(
    upgraded: Upgraded, lead: Person
) -> None:
    recorded = upgraded.recording
    assert int(recorded.settings["BATCH_SIZE"]) < 15 <= rest(lead)["open_tasks"]
    recorded_image = recorded.status["next_images"][0]
    awaits_another = {**recorded_image, "is_validation": False, "is_acceptance": False}
    assert awaits_another["is_again"]
    assert awaits_another in lead.status()["next_images"]


def test_nothing_is_trained_or_reordered_before_anyone_labels(
    upgraded: Upgraded, lead: Person
) -> None:
    recorded = upgraded.recording
    status = rest(lead)
    version = recorded.project["model_version"]
    assert status["version"] == version
    assert status["new_annotations"] == recorded.status["new_annotations"]
    assert upgraded.versions() == recorded.text("models.txt").splitlines()[1:]
    project = lead.get(f"/api/projects/{lead.project_id}/")
    for name in ("model_version", "description", "sampling", "show_collab_predictions", "title"):
        assert project[name] == recorded.project[name]
    tasks = read_tasks(lead, lead.project_id)[: len(recorded.tasks)]  # the others are new
    assert [t["data"] for t in tasks] == [t["data"] for t in recorded.tasks]
    assert [len(t["annotations"]) for t in tasks] == [len(t["annotations"]) for t in recorded.tasks]
    # A larger batch may also reopen more tasks for a second opinion.
    order = open_order(recorded.tasks, version)
    assert [pair for pair in open_order(tasks, version) if pair in order] == order
    awaiting = awaiting_second_opinion(recorded.tasks)
    assert {*awaiting_second_opinion(tasks)} >= {*awaiting} != set()


# Reviewing after the upgrade


def test_reviews_of_the_earlier_release_are_not_collected_again_even_if_one_was_undone(
    upgraded: Upgraded, lead: Person
) -> None:
    recorded = upgraded.recording
    collected = recorded.json(f"p{recorded.project['id']}/review.json")["collected"]
    tasks = read_tasks(lead, lead.project_id)
    assert len(collected) == 2
    assert len({image_id for image_id, _, _ in truths(tasks)} & collected.keys()) == 1
    assert truths(tasks) == sorted(
        (image_id, label, upgraded.made.users[who])
        for image_id, label, who in truths(recorded.tasks)
    )


def test_the_review_project_of_the_earlier_release_is_still_used(
    upgraded: Upgraded, lead: Person
) -> None:
    printed = upgraded.stack.run("scripts.review", "--push", "--count", "1")
    assert printed.returncode == 0, printed.stderr
    assert f"/projects/{upgraded.review_id}/data" in printed.stdout
    images = [task["data"]["image_id"] for task in read_tasks(lead, upgraded.review_id)]
    recorded = [task["data"]["image_id"] for task in upgraded.recording.review_tasks]
    assert images[: len(recorded)] == recorded
    assert max(Counter(images).values()) == 1
    projects = lead.get("/api/projects/")["results"]
    assert {p["id"] for p in projects} == {*upgraded.made.projects.values()}


def test_a_new_review_becomes_ground_truth_in_the_reviewers_name(
    upgraded: Upgraded, lead: Person, grace: Person, truth: dict[str, str]
) -> None:
    before = truths(read_tasks(lead, lead.project_id))
    task = next(t for t in read_tasks(lead, upgraded.review_id) if is_open(t))
    image_id = task["data"]["image_id"]
    annotate(grace, task, truth[image_id])
    new = (image_id, truth[image_id], upgraded.user_id("grace@example.org"))
    wait_for(
        lambda: truths(read_tasks(lead, lead.project_id)) == sorted([*before, new]),
        "one more ground truth, and no other",
    )


# Labeling after the upgrade


def test_three_new_annotations_make_a_head_with_the_next_number(
    upgraded: Upgraded, lead: Person, ada: Person, truth: dict[str, str]
) -> None:
    before = rest(lead)
    known = upgraded.names()
    body = upgraded.recording.status["version"].partition("h")[0]
    label_open_tasks(ada, 3, truth)
    # Their number may stay the same, because old heads are deleted.
    wait_for(lambda: {p["version"] for p in lead.status()["learning_curve"]} - {*known}, "a head")
    new = [name for name in upgraded.names() if name not in known]
    number = max(int(n.partition("h")[2]) for n in known if n.startswith(f"{body}h"))
    assert new[0] == f"{body}h{number + 1:02d}"
    after = rest(lead)
    assert after["round"] == before["round"]
    assert after["new_annotations"] == before["new_annotations"] + 3


def test_ten_new_annotations_make_a_version_trained_on_old_and_new_labels(
    upgraded: Upgraded, lead: Person, ada: Person, truth: dict[str, str]
) -> None:
    before, n_new = upgraded.recording.status, lead.status()["new_annotations"]
    label_open_tasks(ada, before["retrain_after"] - n_new, truth)
    status = ada.wait_for_rest(before["round"] + 1)
    version = f"r{before['round'] + 1:04d}"
    [point] = [p for p in status["learning_curve"] if p["version"] == version]
    full = [p for p in before["learning_curve"] if not p["is_head"]]
    curve = [p for p in status["learning_curve"] if not p["is_head"]]
    assert [p["version"] for p in curve] == [*(p["version"] for p in full), version]
    tasks = read_tasks(lead, lead.project_id)
    assert point["labels"] == len(
        {t["data"]["image_id"] for t in tasks if any(map(label_of, t["annotations"]))}
    )
    assert status["broken_versions"] == {}
    assert [error["message"] for error in status["errors"]] == [
        error["message"] for error in before["errors"]
    ]
    after = rest(lead)
    assert after["new_annotations"] == 0
    assert re.fullmatch(rf"{version}(h\d\d)?", after["version"])
    project = lead.get(f"/api/projects/{lead.project_id}/")
    assert project["model_version"] == after["version"]
    assert after["open_tasks"] >= int(upgraded.recording.settings["BATCH_SIZE"])


def test_each_annotators_count_includes_old_and_new_annotations(
    upgraded: Upgraded, lead: Person
) -> None:
    given = Counter(
        annotation["completed_by"]
        for task in read_tasks(lead, lead.project_id)
        for annotation in task["annotations"][task["data"]["asked_by"] == "seed" :]
        if not annotation["was_cancelled"]
    )
    assert {row["annotator"]: row["answers"] for row in lead.status()["annotators"]} == given
    before = {row["name"]: row["answers"] for row in upgraded.recording.status["annotators"]}
    now = {row["name"]: row["answers"] for row in lead.status()["annotators"]}
    assert now.keys() == before.keys()
    assert now["ada@example.org"] >= before["ada@example.org"] + 3
