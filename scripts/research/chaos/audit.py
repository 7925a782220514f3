"""Check annotations, tasks, counts, versions, leftover files and logs after a run."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from backend.base.errors import TightloopError
from backend.base.labeling import Annotation, TaskReading
from backend.store.pruning import DRAFT_LIFETIME_S
from scripts.local.folder import StackFolder
from scripts.local.processes import processes
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.ledger import Entry

TRACEBACK = "Traceback (most recent call last)"
OTHERS_LOGS = ("label-studio", "postgres", "redis")  # their errors are not ours
SHOWN = 5  # per kind of problem


@dataclass(frozen=True)
class Finding:
    """What was checked, with a summary and the problems."""

    name: str
    summary: str
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the finding as lines of text."""
        shown = [f"    PROBLEM  {problem}" for problem in self.problems[:SHOWN]]
        n_more = len(self.problems) - SHOWN
        return [f"{self.name:<12} {self.summary}", *shown] + (
            [f"    and {n_more} more"] if n_more > 0 else []
        )


def audit(stack: ChaosStack, images: Collection[str]) -> list[Finding]:
    """Check everything while the stack is at rest. `images` are the ids of Tightloop's images."""
    tasks = [task for task in stack.project.read_tasks() if task.task.image_id in images]
    return [
        _annotations(stack, tasks),
        _tasks(tasks),
        _counts(stack, tasks),
        _versions(stack),
        _leftovers(stack),
        _logs(stack),
    ]


def _annotations(stack: ChaosStack, tasks: Iterable[TaskReading]) -> Finding:
    entries = stack.ledger.entries()
    due = {i: entry for i, entry in entries.items() if not entry.may_be_deleted}
    listed = {a.annotation_id: a for task in tasks for a in task.annotations}
    mirrored = {a.annotation_id: a for of in stack.store.annotations().values() for a in of}
    # An annotation may exist although its task cannot be listed.
    lost = [i for i in due.keys() - listed.keys() if not _exists(stack, i)]
    uncounted = sorted(due.keys() - mirrored.keys())
    changed = [*_changed(due, listed, "Label Studio"), *_changed(due, mirrored, "project.db")]
    unclear = stack.ledger.unclear()
    arrived = {(a.task_id, a.annotator) for i, a in listed.items() if i not in entries}
    n_arrived = len(arrived & set(unclear))
    return Finding(
        "annotations",
        f"{len(due)} acknowledged, {len(lost)} lost in Label Studio, {len(uncounted)} lost in "
        f"project.db, {len(changed)} with another label; {len(entries) - len(due)} deleted by "
        f"colleagues; {len(unclear)} without a response, of which {n_arrived} arrived",
        (
            *(f"Label Studio lost annotation {i} of task {due[i].task_id}" for i in lost),
            *(f"project.db lost annotation {i} of task {due[i].task_id}" for i in uncounted),
            *changed,
        ),
    )


def _exists(stack: ChaosStack, annotation_id: int) -> bool:
    return stack.label_studio.get(f"/api/annotations/{annotation_id}/").is_success


def _changed(
    due: Mapping[int, Entry], found: Mapping[int, Annotation], where: str
) -> Iterator[str]:
    for annotation_id in due.keys() & found.keys():
        label, labels = found[annotation_id].label, due[annotation_id].labels
        if label not in labels:
            yield f"annotation {annotation_id} is {label!r} in {where}, not {labels}"


def _tasks(tasks: Collection[TaskReading]) -> Finding:
    by_image = Counter(task.task.image_id for task in tasks)
    twice = {image_id: n for image_id, n in by_image.items() if n > 1}
    return Finding(
        "tasks",
        f"{len(tasks)}, {len(twice)} images with more than one",
        tuple(f"{n} tasks for image {image_id}" for image_id, n in twice.items()),
    )


def _counts(stack: ChaosStack, tasks: Collection[TaskReading]) -> Finding:
    all_annotations = [a for task in tasks for a in task.annotations]
    expected = {
        "annotations": sum(not a.was_skipped for a in all_annotations),
        "skipped": sum(a.was_skipped for a in all_annotations),
        "open_tasks": sum(task.task.is_open for task in tasks),
        "asked_again": sum(task.task.awaits_second_opinion for task in tasks),
    }
    status = _status(stack)
    wrong = [
        f"/status says {name} = {status[name]}, Label Studio has {count}"
        for name, count in expected.items()
        if status[name] != count
    ]
    told = ", ".join(f"{name} {count}" for name, count in expected.items())
    return Finding("counts", f"{told}; {len(wrong)} differ in /status", tuple(wrong))


def _status(stack: ChaosStack) -> Mapping[str, Any]:
    url = f"{stack.info['backend_url']}/status"
    projects = httpx.get(url, timeout=60).raise_for_status().json()["projects"]
    return next(p for p in projects if p["project_id"] == stack.project_id)


def _versions(stack: ChaosStack) -> Finding:
    sound, broken = stack.registry.versions()
    problems = list(broken.values())
    kept = [meta for meta in sound if meta.pruned_at is None]
    for meta in kept:
        try:
            stack.registry.load_own_state(meta.version)
        except TightloopError as error:
            problems.append(str(error))
    current = stack.registry.current()
    promoted = stack.registry.promotions()[0].version
    if current is None or current.version != promoted:
        problems.append(f"{promoted} was put in service but is not")
    n_heads = sum(meta.is_head for meta in sound)
    return Finding(
        "versions",
        f"{len(sound) - n_heads} full and {n_heads} heads, of which {len(kept)} keep their "
        f"weights; {len(problems)} problems; {promoted} is in service",
        tuple(problems),
    )


def _leftovers(stack: ChaosStack) -> Finding:
    drafts = list(stack.root.rglob("*.draft-*"))
    # Pruning deletes the drafts of killed processes, but not before it can be sure of that.
    long_ago = time.time() - DRAFT_LIFETIME_S
    stale = [path for path in drafts if path.stat().st_mtime < long_ago]
    supervisord = stack.process("supervisord")
    known = {supervisord.pid, *(child.pid for child in supervisord.children(recursive=True))}
    strays = [
        f"stray process {process.pid}: {' '.join(process.cmdline())}"
        for process in processes(StackFolder(stack.var))
        if process.pid not in known
    ]
    problems = (*(f"left behind: {path}" for path in stale), *strays)
    return Finding("leftovers", f"{len(drafts)} drafts, {len(strays)} stray processes", problems)


def _logs(stack: ChaosStack) -> Finding:
    found = []
    for path in sorted(stack.var.glob("log/*.log*")):
        if path.name.startswith(OTHERS_LOGS):
            continue
        text = path.read_text(errors="replace")
        ends = re.findall(rf"{re.escape(TRACEBACK)}.*?\n(\w[^\n]*)", text, re.DOTALL)
        found += [f"{path.name}: {end[:200]}" for end in ends]
    counts = Counter(found)
    problems = tuple(f"{n} x {what}" for what, n in counts.most_common())
    return Finding("logs", f"{len(found)} tracebacks", problems)
