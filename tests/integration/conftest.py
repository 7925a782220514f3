"""Start whole stacks for the tests: scripts/up.py in a temporary folder, on free ports."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from dotenv import dotenv_values

from backend.base.settings import Settings
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import project_root
from scripts.local.folder import StackFolder
from scripts.local.processes import processes
from scripts.research.temporary_stack import free_ports
from tests.integration.people import Person
from tests.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[2]
PORTS = ("LABEL_STUDIO_PORT", "BACKEND_PORT", "REDIS_PORT")
SMALL = {
    "PROJECT_TITLE": "Loop under test",
    "WEIGHTS": "none",
    "IMAGE_SIZE": "32",
    "SEED": "0",
    "SEED_LABELS": "60",
    "BLIND": "false",
    "TRAIN": "full",  # heads would reorder the tasks that tests count
    "ADAPT": "off",
    "STRATEGY": "least_confidence",
    "OVERLAP": "1",
    "BATCH_SIZE": "10",
    "ROUNDS": "0",
    "RETRAIN_AFTER": "10",
    "RETRAIN_WAIT": "600",
    "RECONCILE_EVERY": "5",
    "BACKEND_HOST": "127.0.0.1",
    "LABEL_STUDIO_TASK_LOCK_TTL": "600",
}


@dataclass(frozen=True)
class Stack:
    """A stack in `folder`, with the actions of the person who runs it."""

    folder: Path  # its VAR_DIR
    settings_given: Mapping[str, str]
    project_id: int | None = None  # None = the project that was set up first

    @property
    def info(self) -> dict[str, Any]:
        """Read stack.json again: pids change when a program is restarted."""
        found = dict(json.loads((self.folder / "stack.json").read_text()))
        return found if self.project_id is None else {**found, "project_id": self.project_id}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this stack's commands, secrets included."""
        kept = dotenv_values(self.folder / "stack.env")
        return {**os.environ, **self.settings_given, **{k: v for k, v in kept.items() if v}}

    @property
    def settings(self) -> Settings:
        """The settings that the stack's processes read."""
        names = {name: field.alias or name.upper() for name, field in Settings.model_fields.items()}
        given = {name: self.environment.get(variable) for name, variable in names.items()}
        return Settings.model_validate({k: v for k, v in given.items() if v is not None})

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m module arguments` in this stack's environment."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_S,
            check=False,
        )

    @contextmanager
    def with_project(self, title: str, **settings: str) -> Iterator[Stack]:
        """Set up another project in the running stack, and delete it afterwards.

        `info` of the stack that this returns names the other project.
        """
        given = {**self.settings_given, **settings, "PROJECT_TITLE": title}
        created = replace(self, settings_given=given).run(
            "scripts.setup_project", "--title", title, "--json"
        )
        assert created.returncode == 0, created.stderr
        project_id = json.loads(created.stdout)["project_id"]
        try:
            yield replace(self, settings_given=given, project_id=project_id)
        finally:
            delete_project(self, project_id)

    def up(self) -> str:
        """Start the stack and return the output; on failure, fail with the output and the logs."""
        started = self.run("scripts.up")
        if started.returncode != 0:
            pytest.fail(f"{started.stdout}{started.stderr}{self.logs()}", pytrace=False)
        return started.stdout

    def down(self) -> None:
        stopped = self.run("scripts.up", "down")
        assert stopped.returncode == 0, stopped.stderr

    @contextmanager
    def without(self, program: str) -> Iterator[None]:
        """Stop one program of the stack, and start it again afterwards."""
        socket_url = f"unix://{StackFolder(self.folder).sockets / 'supervisord.sock'}"
        name = program if program in ("postgres", "redis") else f"app:{program}"
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-s", socket_url]
        subprocess.run([*control, "stop", name], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run([*control, "start", name], check=True, capture_output=True)

    def processes(self) -> list[psutil.Process]:
        """All running processes, including those whose parent was killed."""
        return processes(StackFolder(self.folder))

    def logs(self) -> str:
        """Return the last lines of every log."""
        tails = [
            f"\n--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:])
            for path in sorted(self.folder.glob("log/*.log"))
        ]
        return "".join(tails)


def delete_project(stack: Stack, project_id: int) -> None:
    """Delete a project and its record."""
    url = f"{stack.info['label_studio_url']}/api/projects/{project_id}/"
    headers = {"Authorization": f"Token {stack.info['api_key']}"}
    with httpx.Client(headers=headers, timeout=PATIENCE_S) as client:
        # While the ranker still adds tasks, Label Studio may fail to delete the project.
        wait_for(lambda: client.delete(url).status_code in (204, 404), "the project's deletion")
    (project_root(stack.settings.model_dir, project_id) / "project.json").unlink()


def new_stack(folder: Path, **changes: str) -> Stack:
    """Return a stack that is not started yet; `changes` are settings that differ from SMALL."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    var = folder / "var"
    place = {
        "VAR_DIR": str(var),
        "DATA_DIR": str(var / "data"),
        "MODEL_DIR": str(var / "models"),
        "POOL": str(small_pool(folder)),
        "DETACH": "1",
        # Label Studio serves files below this folder to projects that have a storage there.
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(var / "local-files"),
    }
    return Stack(var.resolve(), {**SMALL, **ports, **place, **changes})


def small_pool(folder: Path, n_train: int = 300, n_test: int = 60) -> str:
    """Link some images per class of TEST_POOL into a folder; return the digits if it is not set."""
    source = os.environ.get("TEST_POOL")
    if not source:
        return "digits"
    pool = folder / "pool"
    for split, count in (("train", n_train), ("test", n_test)):
        for of_class in sorted(path for path in (Path(source) / split).iterdir() if path.is_dir()):
            links = pool / split / of_class.name
            links.mkdir(parents=True, exist_ok=True)
            for image in sorted(of_class.iterdir())[:count]:
                (links / image.name).symlink_to(image.resolve())
    return str(pool)


@contextmanager
def running_stack(
    prepare: Callable[[Stack], object] = lambda _: None, /, **changes: str
) -> Iterator[Stack]:
    """Run a stack with other settings. `prepare` may fill its folder before that; `create_tables`
    saves it half a minute.

    The folder is not in pytest's: each starting pytest closes those to other users, and a stack run
    by root has PostgreSQL run as another user. A long path with spaces and a percent sign tests
    that such folders work.
    """
    place = Path(tempfile.mkdtemp(prefix="tightloop-test-"))
    folder = place / ("100 % deep " + "and deeper " * 10)
    folder.mkdir()
    stack = new_stack(folder, **changes)
    try:
        prepare(stack)
        stack.up()
        yield stack
    finally:
        stack.down()
    shutil.rmtree(place)  # kept if a test failed inside


CreateTables = Callable[[Stack], None]


@pytest.fixture(scope="session")
def create_tables(tmp_path_factory: pytest.TempPathFactory) -> CreateTables:
    """Return a function that gives a new stack a database with Label Studio's tables.

    Label Studio takes half a minute to create them, which it does once for all processes of pytest.
    """
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # each process has a folder in it
    original = shared / "postgres"

    def copy_to(stack: Stack) -> None:
        with (shared / "postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not original.exists():
                _create_tables(original)
        stack.folder.mkdir(parents=True, exist_ok=True)
        copy_database(original, stack.folder / "postgres")

    return copy_to


def _create_tables(database: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="tightloop-test-"))
    maker = new_stack(place)
    try:
        made = maker.run("tests.integration.services", "tables")
        assert made.returncode == 0, f"{made.stdout}{made.stderr}{maker.logs()}"
    finally:
        maker.down()
    copy_database(maker.folder / "postgres", database)
    shutil.rmtree(place)


def copy_database(database: Path, copy: Path) -> None:
    """Copy the folder of a stopped PostgreSQL; its owner, who may be another user, stays."""
    subprocess.run(["cp", "-a", database, copy], check=True)


@pytest.fixture(scope="package")
def stack(create_tables: CreateTables) -> Iterator[Stack]:
    """The running stack that tests share."""
    with running_stack(create_tables) as running:
        yield running
    assert not running.processes()


@pytest.fixture(scope="package")
def stack_with_large_batches(create_tables: CreateTables) -> Iterator[Stack]:
    """A running stack in which each round is large enough to improve the model."""
    with running_stack(
        create_tables,
        SEED_LABELS="20",
        BATCH_SIZE="40",
        RETRAIN_AFTER="40",
        RETRAIN_WAIT="3600",
        RESCAN_EVERY="3600",
        WEIGHTS=os.environ.get("TEST_WEIGHTS", "none"),
    ) as running:
        yield running


@pytest.fixture(scope="package")
def stack_from_nothing() -> Iterator[Stack]:
    """A running stack that also created its database, as a user's does."""
    with running_stack() as running:
        yield running
    assert not running.processes()


@pytest.fixture
def person(stack: Stack) -> Iterator[Person]:
    """A person who labels, once the first round is done."""
    with Person(stack) as someone:
        someone.wait_for_rest(1)
        yield someone


@pytest.fixture
def project(stack: Stack) -> LabelStudioProject:
    """The stack's project in Label Studio."""
    info = stack.info
    return LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, Any, Any]:
    """Show the logs of the stack below a failed test."""
    report = yield
    for stack in item.funcargs.values():
        if report.failed and isinstance(stack, Stack):
            report.sections.append(("logs of the stack", stack.logs()))
    return report
