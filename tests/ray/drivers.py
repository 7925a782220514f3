"""Run a process that connects to a cluster, as a worker's job does."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.patience import PATIENCE_S
from tests.ray.conftest import ROOT

OF_RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "RAY_ADDRESS")


def of_tests() -> dict[str, str]:
    """Return the tests' settings of Ray."""
    return {name: os.environ[name] for name in OF_RAY}


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Run Python code without the tests' settings of Ray, except those in `environment`."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_RAY}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=kept | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: str, **environment: str) -> str:
    """Return what the code printed; fail with its errors if it failed."""
    with start(code, *arguments, **environment) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return output
