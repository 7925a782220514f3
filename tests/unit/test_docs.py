"""The pages for readers: links lead somewhere, commands exist, and README stays short."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.unit.test_floors import ROOMS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# As people type it: `python -m scripts.models list`, `scripts.sync --count 50`, `… scripts.review`.
MODULE = re.compile(r"\b((?:scripts|backend)(?:\.(?!lock\b)[a-z_]+)+)\b")
FILE = re.compile(r"`((?:backend|scripts|tests|docs)/[\w./-]+)`")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
# "make it", "make sure" … are English only outside of code; within code every word is a target.
CODE = re.compile(r"`[^`\n]+`|^```.*?^```$", re.MULTILINE | re.DOTALL)
HELP_TIMEOUT_S = 600
SHOW_HELPS = """
import contextlib, io, json, runpy, sys
helps = {}
for command in sys.argv[1:]:
    printed = io.StringIO()
    sys.argv[1:] = ["--help"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    helps[command] = printed.getvalue()
print(json.dumps(helps))
"""

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    prose = FENCE.sub("", page.read_text())
    return frozenset(anchor(h) for h in re.findall(r"^#+ (.+)$", prose, re.MULTILINE))


def code_in(page: Path) -> str:
    return "\n".join(CODE.findall(page.read_text()))


@cache
def targets() -> frozenset[str]:
    makefile = (ROOT / "Makefile").read_text()
    return frozenset(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def source_of(module: str) -> Path:
    """Return the file that `python -m module` runs."""
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def is_module(name: str) -> bool:
    return source_of(name).is_file()


def is_command(module: str) -> bool:
    return '__name__ == "__main__"' in source_of(module).read_text()


def helps_of(commands: Sequence[str]) -> dict[str, str]:
    """Return what each command prints for --help; one process runs them all, to load torch once."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELPS, *commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HELP_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_headings_become_the_anchors_that_github_makes() -> None:
    assert anchor("`project.db`") == "projectdb"
    assert anchor("What Tightloop does, and what it does not do") == (
        "what-tightloop-does-and-what-it-does-not-do"
    )
    assert anchor("The model's guess") == "the-models-guess"


@by_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        has_anchor = not fragment or (target.suffix == ".md" and fragment in anchors(target))
        if not target.is_file() or not target.is_relative_to(ROOT) or not has_anchor:
            broken.append(link)
    assert not broken


@by_page
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    assert set(TARGET.findall(code_in(page))) <= targets()


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name
)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    assert not [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()]


def test_every_command_that_a_page_names_shows_its_help() -> None:
    named = {
        m for page in PAGES if page.name != "CHANGELOG.md" for m in MODULE.findall(code_in(page))
    }
    assert not [module for module in named if not is_module(module)]
    commands = sorted(filter(is_command, named))
    for command, text in helps_of(commands).items():
        assert f"usage: python -m {command} " in text
    assert len(commands) >= 10  # the pattern still finds them


def test_contributing_lists_the_rooms_from_the_ground_up() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = page.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", rooms, re.MULTILINE)) == ROOMS


def test_every_page_is_linked_from_readme() -> None:
    linked = {
        (README.parent / link.partition("#")[0]).resolve()
        for link in LINK.findall(README.read_text())
    }
    assert not [page.name for page in PAGES if page != README and page not in linked]


def test_readme_is_short_enough_to_read() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    assert not [line for line in lines if len(line) > 120]


@by_page
def test_prose_ends_at_120_columns(page: Path) -> None:
    lines = FENCE.sub("", page.read_text()).splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith(("|", "!["))]
