"""A temporary stack in a separate folder, for bench and fuzz: started, stopped and removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.research.temporary_backend import free_ports

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("LABEL_STUDIO_PORT", "BACKEND_PORT", "REDIS_PORT")


@contextmanager
def temporary_stack(name: str, **settings: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run a stack in var/<name> on free ports; yield its folder and the content of stack.json."""
    var = ROOT / "var" / name
    shutil.rmtree(var, ignore_errors=True)
    environment = {
        **os.environ,
        "VAR_DIR": str(var),
        "MODEL_DIR": str(var / "models"),
        "DATA_DIR": os.environ.get("DATA_DIR", str(ROOT / "var/data")),
        "DETACH": "1",
        **dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True)),
        **settings,
    }
    up = [sys.executable, "-m", "scripts.up"]
    subprocess.run(up, env=environment, cwd=ROOT, check=True)
    try:
        yield var, json.loads((var / "stack.json").read_text())
    finally:
        subprocess.run([*up, "down"], env=environment, cwd=ROOT, check=True)
        shutil.rmtree(var, ignore_errors=True)
