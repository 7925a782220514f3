"""Restore the webhook and the ML backend connection once, and then leave them alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import DetachedError, LabelStudioError, ModelFolderError
from backend.base.settings import Settings
from backend.labelstudio.project_connection import Address, ProjectConnection
from backend.rounds.connection import RESTORE_EVERY_S, follow_connection
from backend.store.files import lock
from backend.store.project_record import begin_detaching, project_root, write_record
from backend.store.project_store import ProjectStore
from tests.unit.store.test_registry import record

NOON = 1_700_000_000.0
URL = "http://127.0.0.1:9090"


class SharedConnection(ProjectConnection):
    """A connection in memory, which colleagues change; "" means that nothing is wrong."""

    def __init__(self) -> None:
        self.project_id = 7
        self.webhook = self.backend = ""
        self.refuses = False
        self.n_restored = 0

    def webhook_fault(self, url: str, secret: str) -> str:  # noqa: ARG002
        return self.webhook

    def backend_fault(self, url: str, user: str) -> str:  # noqa: ARG002
        return self.backend

    def connect_webhook(self, url: str, secret: str) -> bool:  # noqa: ARG002
        self.webhook = self._restore()
        return True

    def connect_backend(self, url: str, user: str, password: str) -> bool:  # noqa: ARG002
        self.backend = self._restore()
        return True

    def _restore(self) -> str:
        if self.refuses:
            raise LabelStudioError("Label Studio refuses private addresses")
        self.n_restored += 1
        return ""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = project_root(tmp_path, 7)
    write_record(root, record(7))
    return root


@pytest.fixture
def store(root: Path) -> ProjectStore:
    return ProjectStore(root)


@pytest.fixture
def connection(root: Path) -> SharedConnection:
    """Return a connection that the clock has checked once."""
    connection = SharedConnection()
    look(root, connection, NOON)
    return connection


def look(root: Path, connection: SharedConnection, now: float, url: str = URL) -> None:
    address = Address(url, "tightloop", "password", "secret")
    follow_connection(root, connection, Settings.model_construct(), address, now)


def test_a_deleted_webhook_is_restored_with_one_line_in_the_log(
    root: Path,
    store: ProjectStore,
    connection: SharedConnection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection.webhook = "was deleted"
    for second in (60, 120):
        look(root, connection, NOON + second)
    assert connection.n_restored == 1
    assert caplog.messages == ["project 7: the webhook was deleted, so Tightloop restored it"]
    assert store.facts().connection_problem == ""


def test_a_webhook_that_is_deleted_again_within_a_day_is_left_and_named(
    root: Path, store: ProjectStore, connection: SharedConnection
) -> None:
    for second in (60, 120, 180):
        connection.webhook = "was deleted"
        look(root, connection, NOON + second)
    assert connection.n_restored == 1
    assert store.facts().connection_problem == (
        "The project's webhook in Label Studio was deleted, although Tightloop restored it less "
        "than a day ago. Until it is restored, Tightloop notices annotations only every 60 "
        "seconds. To restore it, run `python -m scripts.setup_project`."
    )
    look(root, connection, NOON + 60 + RESTORE_EVERY_S)
    assert connection.n_restored == 2
    assert store.facts().connection_problem == ""


def test_the_notice_disappears_once_set_up_has_restored_the_webhook(
    root: Path, store: ProjectStore, connection: SharedConnection
) -> None:
    for second in (60, 120):
        connection.webhook = "was switched off"
        look(root, connection, NOON + second)
    assert store.facts().connection_problem
    connection.connect_webhook(URL, "secret")
    look(root, connection, NOON + 180)
    assert store.facts().connection_problem == ""


def test_the_webhook_and_the_ml_backend_are_each_restored_once(
    root: Path, store: ProjectStore, connection: SharedConnection
) -> None:
    connection.webhook = "was deleted"
    look(root, connection, NOON + 60)
    connection.backend = "was deleted"
    look(root, connection, NOON + 120)
    assert connection.n_restored == 2
    connection.webhook = connection.backend = "was deleted"
    look(root, connection, NOON + 180)
    assert connection.n_restored == 2
    problem = store.facts().connection_problem
    assert "webhook in Label Studio was deleted" in problem
    assert "ML backend connection in Label Studio was deleted" in problem


def test_a_refusal_by_label_studio_is_named_and_the_repair_is_tried_again(
    root: Path, store: ProjectStore, connection: SharedConnection
) -> None:
    connection.webhook, connection.refuses = "was deleted", True
    look(root, connection, NOON + 60)
    assert "(Label Studio refuses private addresses)" in store.facts().connection_problem
    connection.refuses = False
    look(root, connection, NOON + 120)
    assert connection.n_restored == 1
    assert store.facts().connection_problem == ""


def test_nothing_is_restored_before_set_up_has_connected_this_address(root: Path) -> None:
    connection = SharedConnection()
    connection.webhook = "was deleted"
    look(root, connection, NOON)
    assert connection.n_restored == 0
    connection.webhook = ""
    look(root, connection, NOON + 60)
    connection.webhook = "was given another address"
    look(root, connection, NOON + 120, url="http://127.0.0.1:9999")  # BACKEND_PORT was changed
    assert connection.n_restored == 0


def test_while_set_up_connects_the_project_or_detaches_it_nothing_is_restored(
    root: Path, connection: SharedConnection
) -> None:
    connection.webhook = "was deleted"
    with lock(root, "attach"), pytest.raises(ModelFolderError, match="locked"):
        look(root, connection, NOON + 60)
    begin_detaching(root)
    with pytest.raises(DetachedError):
        look(root, connection, NOON + 120)
    assert connection.n_restored == 0
