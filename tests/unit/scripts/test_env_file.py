"""Check what `make secrets` prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts.compose.env import read_env

ROOT = Path(__file__).parents[3]


def test_the_command_names_what_it_created_but_never_a_value(tmp_path: Path) -> None:
    for name in (".env.example", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.env_file"],
        cwd=tmp_path,
        env={"PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith(".env: created LABEL_STUDIO_PASSWORD, ")
    assert "problem: Docker is not installed" in done.stderr
    values = read_env(tmp_path / ".env").values()
    assert not [v for v in values if len(v) > 3 and v in done.stdout + done.stderr]
