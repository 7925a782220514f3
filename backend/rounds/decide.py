"""Decide what is due for a project: the only rule, as a pure function of plain data.

A webhook, a tick of the clock, a button or the end of a job only requests a look at the project.
The job or the clock then gathers a `State` (backend/rounds/observe.py) and calls `decide`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from backend.base.settings import OverlapName, TrainName

RankStep = Literal["read", "refresh", "top_up", "refit", "collect_reviews"]
Step = Literal["retrain"] | RankStep

READ_EVERY_S = 2.0  # at most this often, however many webhooks arrive
# Every head adds a prediction to each open task, and Label Studio keeps those that an open browser
# tab may still refer to.
REFIT_EVERY_S = 5.0
REVIEWS_EVERY_S = 60.0
EXHAUSTED_AGAIN_S = 60.0
RETRY_AFTER_S: Mapping[str, float] = {
    "retrain": 60.0,
    "refit": 60.0,
    "read": 10.0,
    "refresh": 10.0,
    "top_up": 10.0,
    "collect_reviews": 60.0,
}


@dataclass(frozen=True)
class Policy:
    """The settings that matter for the decision."""

    train: TrainName = "both"
    overlap: OverlapName = "auto"
    batch_size: int = 20
    rounds: int = 0  # 0 = no end
    retrain_after: int = 20
    retrain_wait_s: float = 60.0


@dataclass(frozen=True)
class State:
    """Everything that the decision depends on. Times are seconds since the epoch, 0 = never.

    An annotation is new until a training run has used it, and again when it changes or is deleted.
    """

    # What people did
    n_new: int = 0  # new annotations as last read, and images named by later webhooks
    first_new_at: float | None = None  # when the first of them was noticed
    hinted_at: float = 0.0  # when a webhook last reported a change
    train_asked_at: float = 0.0  # when a person last asked for training
    # What was read
    read_at: float = 0.0
    revision: int = 0  # incremented whenever a reading finds a changed annotation
    n_open: int = 0  # tasks that nobody has annotated
    # What was learned and done
    trained_at: float = 0.0  # when the last completed training run began
    head_revision: int = 0  # the revision used by the last head or training run
    head_fitted_at: float = 0.0
    rounds_done: int = 0
    in_service: str = ""  # version name
    ordered_by: str = ""  # the version by which the open tasks were last ordered
    reopened_at_revision: int = 0  # the revision at which OVERLAP=2 or 3 last reopened tasks
    exhausted_at: float = 0.0  # when a batch was due and no image was left; 0 after the next image
    has_review: bool = False
    reviews_read_at: float = 0.0
    failed_at: Mapping[str, float] = field(default_factory=dict)  # by step, until it succeeds

    @property
    def is_training_asked(self) -> bool:
        """Whether a person asked for training and no training run has finished since."""
        return self.train_asked_at > self.trained_at


@dataclass(frozen=True)
class Decision:
    """At most one step per queue, and when to look again if nothing happens earlier."""

    train: Literal["retrain"] | None
    rank: RankStep | None
    look_at: float  # infinity if nothing becomes due without a change


def decide(state: State, policy: Policy, now: float) -> Decision:
    """Decide what is due at `now` (seconds since the epoch)."""
    train_at = _train_at(state, policy)
    steps = list(_rank_steps(state, policy))
    rank = next((step for step, at in steps if at <= now), None)
    later = [at for at in (train_at, *(at for _, at in steps)) if at > now]
    return Decision(
        train="retrain" if train_at <= now else None,
        rank=rank,
        look_at=min(later, default=math.inf),
    )


def batch_is_due(
    n_open: int, batch_size: int, rounds_done: int, rounds: int, *, is_new_version: bool = False
) -> bool:
    """Return whether to ask the next batch: annotators may run out of tasks, and rounds remain.

    A new version asks its own batch if at most two batches are then open; its choices then come
    before the rest of the last batch. `rounds` 0 = no end.
    """
    has_room = n_open < batch_size or (is_new_version and n_open == batch_size)
    return has_room and not (rounds and rounds_done >= rounds)


def _train_at(state: State, policy: Policy) -> float:
    """Return when training is due.

    Training is due at once if a person asked for it or there are enough new annotations, and
    otherwise `retrain_wait_s` after the first new annotation.
    """
    retry_at = _retry_at(state, "retrain")
    if state.is_training_asked:
        # A request after a failure is retried at once.
        return 0.0 if state.train_asked_at > state.failed_at.get("retrain", 0.0) else retry_at
    if state.n_new >= policy.retrain_after:
        return retry_at
    if state.n_new and state.first_new_at is not None:
        return max(state.first_new_at + policy.retrain_wait_s, retry_at)
    return math.inf


def _rank_steps(state: State, policy: Policy) -> Iterator[tuple[RankStep, float]]:
    """Yield each step of the ranker with its due time, most urgent first."""
    ask_at = _ask_at(state, policy)
    steps: tuple[tuple[RankStep, float], ...] = (
        ("read", _read_at(state)),
        ("refresh", 0.0 if state.in_service not in ("", state.ordered_by) else math.inf),
        ("top_up", math.inf if state.n_open else ask_at),  # nobody can label
        ("refit", _refit_at(state, policy)),
        ("top_up", ask_at),
        ("collect_reviews", _reviews_at(state)),
    )
    for step, at in steps:
        yield step, max(at, _retry_at(state, step))


def _read_at(state: State) -> float:
    if not state.read_at:
        return 0.0
    return state.read_at + READ_EVERY_S if state.hinted_at >= state.read_at else math.inf


def _ask_at(state: State, policy: Policy) -> float:
    if not state.read_at:
        return math.inf  # the number of open tasks is unknown
    if policy.overlap in ("2", "3") and state.revision > state.reopened_at_revision:
        return 0.0
    if not batch_is_due(state.n_open, policy.batch_size, state.rounds_done, policy.rounds):
        return math.inf
    return state.exhausted_at + EXHAUSTED_AGAIN_S if state.exhausted_at else 0.0


def _refit_at(state: State, policy: Policy) -> float:
    if policy.train == "full" or not state.in_service or state.revision <= state.head_revision:
        return math.inf
    return state.head_fitted_at + REFIT_EVERY_S


def _reviews_at(state: State) -> float:
    return state.reviews_read_at + REVIEWS_EVERY_S if state.has_review else math.inf


def _retry_at(state: State, step: str) -> float:
    failed_at = state.failed_at.get(step)
    return 0.0 if failed_at is None else failed_at + RETRY_AFTER_S[step]
