"""Adapt the body on a real stack: it yields to training, survives kill -9, becomes the start."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from backend.store.adaptation_checkpoint import FILE
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from tests.integration.conftest import CreateTables, Stack, running_stack
from tests.integration.people import Person
from tests.patience import wait_for


@pytest.fixture(scope="module")
def stack(create_tables: CreateTables) -> Iterator[Stack]:
    with running_stack(create_tables, ADAPT="1", TRAIN="both") as running:
        yield running
    assert not running.processes()


@pytest.fixture
def person(stack: Stack) -> Iterator[Person]:
    """A person who does not wait for the adaptation, which is a job."""
    with Person(stack) as someone:
        yield someone


def test_an_adaptation_yields_to_training_survives_a_kill_and_becomes_the_start(
    stack: Stack, person: Person
) -> None:
    root = project_root(stack.settings.model_dir, person.project_id)
    store, registry = ProjectStore(root), Registry(root)
    wait_for(lambda: store.facts().adapt_spent_s >= 5, "the adaptation after the first version")
    assert Bodies(root).names() == []

    # It yields to a training run that a person requests, and keeps its work.
    person.start_training()
    wait_for(lambda: registry.last_round() == 2, "the requested training run")
    assert registry.read_meta("r0002").start == PRETRAINED
    assert (root / FILE).exists()
    kept_s = store.facts().adapt_spent_s
    assert 5 <= kept_s < 60

    # It resumes from there after its worker and its process are killed.
    wait_for(lambda: store.facts().adapt_spent_s > kept_s, "the resumed adaptation")
    worker = psutil.Process(stack.info["pids"]["trainer"])
    for victim in (worker, *worker.children(recursive=True)):
        victim.send_signal(signal.SIGKILL)
    wait_for(lambda: Bodies(root).names() == ["a0001"], "the adapted body")
    body = Bodies(root).read_meta("a0001")
    began_s = store.facts().adapt_began_at
    assert body.created_at.timestamp() - began_s > body.seconds >= 60
    assert body.refused is None

    # Without a new label, the next training run starts from it.
    wait_for(lambda: registry.last_round() == 3, "a training run from the new start")
    assert registry.read_meta("r0003").start == "a0001"
    wait_for(lambda: not (root / FILE).exists(), "the checkpoint's deletion")
    assert not store.facts().adapt_failures
