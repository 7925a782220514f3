"""Run commands by their former paths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MOVED = (
    "bench", "bench_calibration", "bench_consensus", "bench_recipe", "fuzz",
    "simulate",
)  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_the_old_path_of_a_research_command_names_the_new_one(name: str) -> None:
    old = [sys.executable, "-m", f"scripts.{name}", "--help"]
    done = subprocess.run(old, cwd=ROOT, capture_output=True, text=True, check=False)
    new = f"scripts.research.{name}"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"this command is now: python -m {new}\n"
    assert (ROOT / f"{new.replace('.', '/')}.py").is_file()
