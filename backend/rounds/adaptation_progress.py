"""Report how far the body is adapted to the pool, using only the project's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.base.settings import Settings
from backend.rounds import adapting_rule
from backend.rounds.adaptation_sentences import PHASE, Adaptation, AdaptationState
from backend.store.bodies import Bodies
from backend.store.body_meta import BodyMeta
from backend.store.project_record import read_record
from backend.store.project_rows import Facts
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry


@dataclass(frozen=True)
class AdaptationProgress:
    """How far the body is adapted to the pool's images, and what that brought."""

    setting: str = field(
        metadata={"description": "the setting `ADAPT`: `auto`, `off` or a number of minutes"}
    )
    state: AdaptationState = field(
        metadata={
            "description": "`off`, `too_few_images` (fewer than 5,000, with `ADAPT=auto`), "
            "`waiting` (not begun), `running`, `paused` (begun, but the trainer has other work "
            "first, or no more images will be queried), `done`, or `failed` (tried again later)"
        }
    )
    sentence: str = field(
        metadata={"description": "what happens now, what the last adaptation brought, and why"}
    )
    minutes_done: float | None = field(
        metadata={
            "description": "how many minutes an adaptation that is not complete has run; null if "
            "there is none"
        }
    )
    minutes_total: float | None = field(
        metadata={"description": "how many minutes it is expected to run in total"}
    )
    start: str = field(
        metadata={
            "description": "what the next full training run starts from: `pretrained` (the weights "
            "that `weights` names) or an adapted body"
        }
    )
    body: str | None = field(metadata={"description": "the newest adapted body"})
    refused: str | None = field(
        metadata={"description": "why training runs do not start from `body` automatically"}
    )
    labels: int | None = field(
        metadata={
            "description": "how many labels each of the two compared heads was fitted to; null if "
            "`body` was not compared"
        }
    )
    accuracy_before: float | None = field(
        metadata={
            "description": "share of the validation images that the head on the earlier start "
            "classified correctly"
        }
    )
    accuracy_after: float | None = field(
        metadata={"description": "the same for the head on `body`"}
    )


def adaptation_progress(
    settings: Settings, root: Path, job: Mapping[str, Any] | None, now: float
) -> AdaptationProgress:
    """Return how far a project's body is adapted at `now` (seconds since the epoch).

    `job` is the project's job `adapt` while it runs, as `TrainingQueue.jobs` reports it.
    """
    bodies, registry = Bodies(root), Registry(root)
    facts, record = ProjectStore(root).facts(), read_record(root)
    sound, _ = bodies.all()
    body = sound[-1] if sound else None
    comparison = body.comparison if body else None
    state = _state(settings, facts, body, is_running=job is not None)
    spent_s, budget_s = _seconds(settings, facts, job)
    case = Adaptation(
        settings=settings,
        facts=facts,
        state=state,
        spent_s=spent_s,
        budget_s=budget_s,
        phase=str((job or {}).get("phase", "")),
        body=body,
        start=bodies.usable_start(),
        start_fault=bodies.start_fault(),
        has_weights=record is None or record.weights != "none",
        has_version=registry.current() is not None,
        is_over=adapting_rule.is_over(settings.rounds, registry.last_round(), facts),
        now=now,
    )
    has_begun = state in ("running", "paused") or (state == "failed" and spent_s > 0)
    return AdaptationProgress(
        setting=f"{settings.adapt:g}" if isinstance(settings.adapt, float) else settings.adapt,
        state=state,
        sentence=" ".join(case.sentences()),
        minutes_done=spent_s / 60 if has_begun else None,
        minutes_total=budget_s / 60 if has_begun else None,
        start=case.start.name,
        body=body.name if body else None,
        refused=body.refused if body else None,
        labels=comparison.labels if comparison else None,
        accuracy_before=comparison.accuracy_before if comparison else None,
        accuracy_after=comparison.accuracy_after if comparison else None,
    )


def _state(
    settings: Settings, facts: Facts, body: BodyMeta | None, *, is_running: bool
) -> AdaptationState:
    if is_running:
        return "running"
    if settings.adapt == "off":
        return "off"
    if adapting_rule.must_adapt(settings.adapt, facts.pool_images, facts.adapted_images):
        if facts.adapt_failures:
            return "failed"
        return "paused" if _is_begun(facts) else "waiting"
    if facts.adapted_at or body is not None:
        return "done"
    is_counted = facts.pool_images and not facts.undecoded_images
    return "too_few_images" if settings.adapt == "auto" and is_counted else "waiting"


def _is_begun(facts: Facts) -> bool:
    """Return whether an adaptation has begun and is not complete."""
    return facts.adapt_began_at > facts.adapted_at


def _seconds(
    settings: Settings, facts: Facts, job: Mapping[str, Any] | None
) -> tuple[float, float]:
    """Return how long the adaptation has run, and how long it is expected to run in total."""
    if job is not None and job.get("total") and str(job.get("phase")).startswith(PHASE):
        return job["done"], job["total"]
    longest = adapting_rule.max_seconds(settings.adapt)
    if not _is_begun(facts):
        return 0.0, longest
    return facts.adapt_spent_s, facts.adapt_budget_s or longest
