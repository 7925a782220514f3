"""The whole stack for the tests: scripts/up.py in a folder of its own, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from dotenv import dotenv_values

from backend.base.settings import Settings
from scripts.local.folder import StackFolder
from scripts.local.processes import processes
from scripts.research.temporary_backend import free_ports
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PORTS = ("LABEL_STUDIO_PORT", "BACKEND_PORT", "REDIS_PORT")
SMALL = {
    "PROJECT_TITLE": "Loop under test",
    "WEIGHTS": "none",
    "IMAGE_SIZE": "32",
    "SEED": "0",
    "SEED_LABELS": "60",
    "BLIND": "false",
    "TRAIN": "full",  # heads come where a test asks for one: they would re-order what others count
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
    """A stack of its own in `folder`, with what a person would do to it."""

    folder: Path  # its VAR_DIR
    settings_given: Mapping[str, str]

    @property
    def info(self) -> dict[str, Any]:
        """stack.json as it is now: pids change when a program is restarted."""
        return dict(json.loads((self.folder / "stack.json").read_text()))

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to belong to this stack, secrets included."""
        kept = dotenv_values(self.folder / "stack.env")
        return {**os.environ, **self.settings_given, **{k: v for k, v in kept.items() if v}}

    @property
    def settings(self) -> Settings:
        """The settings that the stack's processes read."""
        names = {name: field.alias or name.upper() for name, field in Settings.model_fields.items()}
        given = {name: self.environment.get(variable) for name, variable in names.items()}
        return Settings.model_validate({k: v for k, v in given.items() if v is not None})

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m module arguments` as a person beside this stack would run it."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_S,
            check=False,
        )

    def up(self) -> str:
        """What it prints; the test fails with that and the logs where it cannot start."""
        started = self.run("scripts.up")
        if started.returncode != 0:
            pytest.fail(f"{started.stdout}{started.stderr}{self.logs()}", pytrace=False)
        return started.stdout

    def down(self) -> None:
        stopped = self.run("scripts.up", "down")
        assert stopped.returncode == 0, stopped.stderr

    @contextmanager
    def without(self, program: str) -> Iterator[None]:
        """One of its programs is stopped meanwhile."""
        socket_url = f"unix://{StackFolder(self.folder).sockets / 'supervisord.sock'}"
        name = program if program in ("postgres", "redis") else f"app:{program}"
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-s", socket_url]
        subprocess.run([*control, "stop", name], check=True, capture_output=True)
        yield
        subprocess.run([*control, "start", name], check=True, capture_output=True)

    def processes(self) -> list[psutil.Process]:
        """All that run, those that a killed parent left behind too."""
        return processes(StackFolder(self.folder))

    def logs(self) -> str:
        """The last lines of every log."""
        tails = [
            f"\n--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:])
            for path in sorted(self.folder.glob("log/*.log"))
        ]
        return "".join(tails)


def new_stack(folder: Path, **changes: str) -> Stack:
    """A stack that is not started yet; `changes` are settings that differ from SMALL."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    var = folder / "var"
    place = {
        "VAR_DIR": str(var),
        "DATA_DIR": str(var / "data"),
        "MODEL_DIR": str(var / "models"),
        "POOL": str(small_pool(folder)),
        "DETACH": "1",
    }
    return Stack(var.resolve(), {**SMALL, **ports, **place, **changes})


def small_pool(folder: Path, n_train: int = 300, n_test: int = 60) -> str:
    """Some images per class of TEST_POOL as a folder of links; the digits where it is not set."""
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
    """A stack for a test that needs other settings; its first start takes a minute. `prepare` may
    fill its folder before that.

    Its folder is not pytest's: every pytest that starts closes those to root's PostgreSQL, another
    user. Deep and with a blank and a percent sign, it is as awkward as people's are.
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
    shutil.rmtree(place)  # kept where a test failed inside


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack that tests share, set up and running."""
    with running_stack() as running:
        yield running
    assert not running.processes()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, Any, Any]:
    """Show the logs of its stack under a test that failed."""
    report = yield
    for stack in item.funcargs.values():
        if report.failed and isinstance(stack, Stack):
            report.sections.append(("logs of the stack", stack.logs()))
    return report
