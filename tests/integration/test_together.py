"""Three annotators label two rounds at the same time, with second opinions."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from types import SimpleNamespace
from typing import NamedTuple

import httpx
import pytest

from backend.base.labeling import LabelConfig
from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import project_root
from backend.store.registry import Registry
from scripts.research.accounts import invite_link, log_in, sign_up
from tests.integration.conftest import CreateTables, Stack, running_stack
from tests.integration.people import Person, pool_of
from tests.patience import PATIENCE_S, wait_for

SEEDS, BATCH = 100, 16


class Turn(NamedTuple):
    """A task from the moment when an annotator opens it until they submit."""

    task_id: int
    opened_at: float
    submitted_at: float


class Colleague(Person):
    """An annotator who joined by the invite link; `labels` is what they choose for each image."""

    def __init__(self, stack: Stack, link: str, email: str, labels: dict[str, str]) -> None:
        url = stack.info["label_studio_url"]
        assert sign_up(url, link, email).status_code == 302
        self.user_id, token = log_in(url, email)
        self.email = email
        self.labels = labels
        self.turns: list[Turn] = []
        super().__init__(SimpleNamespace(info={**stack.info, "api_key": token}))

    def label(self, count: int, config: LabelConfig) -> None:
        """Label a number of tasks in the order served."""
        give_up = time.monotonic() + PATIENCE_S
        until = len(self.turns) + count
        while len(self.turns) < until:
            assert time.monotonic() < give_up, "no task was open for a long time"
            try:
                task = self.next_task()
            except httpx.HTTPStatusError:  # no task is open at this moment
                time.sleep(0.5)
                continue
            opened_at = time.monotonic()
            self.submit(task["id"], self.labels[task["data"]["image_id"]], config)
            self.turns.append(Turn(task["id"], opened_at, time.monotonic()))


@pytest.fixture(scope="module")
def crew(create_tables: CreateTables) -> Iterator[Stack]:
    with running_stack(
        create_tables,
        SEED_LABELS=str(SEEDS),
        OVERLAP="auto",
        BATCH_SIZE=str(BATCH),
        RETRAIN_AFTER="24",
        LABEL_STUDIO_TASK_LOCK_TTL="60",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def project(crew: Stack) -> LabelStudioProject:
    info = crew.info
    return LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])


@pytest.fixture(scope="module")
def people(crew: Stack, project: LabelStudioProject) -> Iterator[list[Colleague]]:
    """Ada and Grace choose the true label; Mallory chooses the class after it."""
    truth = true_labels(pool_of(crew))
    choices = project.label_config().choices
    next_class = dict(zip(choices, choices[1:] + choices[:1], strict=True))
    mistaken = {image_id: next_class[label] for image_id, label in truth.items()}
    link = invite_link(crew.info["label_studio_url"], crew.info["api_key"])
    chosen = {"ada@example.org": truth, "grace@example.org": truth, "mallory@example.org": mistaken}
    three = [Colleague(crew, link, email, labels) for email, labels in chosen.items()]
    yield three
    for annotator in three:
        annotator.__exit__()


def test_three_annotators_label_two_rounds_at_once_and_no_annotation_is_lost(
    crew: Stack, project: LabelStudioProject, people: list[Colleague]
) -> None:
    config = project.label_config()
    ada, grace, mallory = people
    ada.wait_for_rest(1)
    with ThreadPoolExecutor() as threads:
        labeling = [threads.submit(someone.label, 12, config) for someone in people]
        for done in labeling:
            done.result()
        wait_for(lambda: ada.training(), "a training")
        # Mallory leaves; the other two keep labeling during training, and label the new batch.
        labeling = [threads.submit(someone.label, 18, config) for someone in (ada, grace)]
        for done in labeling:
            done.result()
    status = ada.wait_for_rest(3)

    annotations = project.annotations()
    given = [a for of_task in annotations.values() for a in of_task if a.annotator is not None]
    assert Counter(a.annotator for a in given) == {p.user_id: len(p.turns) for p in people}
    assert status["annotations"] == SEEDS + len(given)
    version = Registry(project_root(crew.settings.model_dir, project.project_id)).read_meta(
        status["version"]
    )
    assert version.labels == SEEDS + len({a.image_id for a in given})
    assert "arrived without a webhook" not in (crew.folder / "log/clock.log").read_text()

    # No two annotators had the same task open at once, and nobody labeled an image twice.
    turns_of: dict[int, list[tuple[Turn, Colleague]]] = defaultdict(list)
    for person in people:
        for turn in person.turns:
            turns_of[turn.task_id].append((turn, person))
    for turns in turns_of.values():
        assert len({person.email for _, person in turns}) == len(turns)
        for (one, _), (other, _) in combinations(turns, 2):
            assert one.submitted_at <= other.opened_at or other.submitted_at <= one.opened_at

    # Others were also asked about some of Mallory's images.
    again = {task_id for task_id, turns in turns_of.items() if len(turns) > 1}
    assert again & {turn.task_id for turn in mallory.turns}


def test_the_report_and_the_status_count_each_annotators_annotations(
    crew: Stack, people: list[Colleague]
) -> None:
    printed = crew.run("scripts.annotators")
    assert printed.returncode == 0, printed.stderr
    for person in people:
        assert person.email in printed.stdout
    reported = {row["annotator"]: row for row in people[0].status()["annotators"]}
    assert {who: row["answers"] for who, row in reported.items()} == {
        person.user_id: len(person.turns) for person in people
    }
    assert (
        reported[people[2].user_id]["agreement"] < 1
    )  # with the others who labeled the same images
