"""Decide what is due for a project, with a pure function of plain data.

No other code decides this: a webhook, a tick of the clock, a button or the end of a job only
requests a check of the project. The job or the clock then gathers a `State`
(backend/rounds/observe.py) and calls `decide`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backend.base.settings import Settings
from backend.rounds import adapting_rule
from backend.rounds.finish_reading import FinishReading
from backend.store.project_rows import Facts
from backend.store.version_meta import UNTRAINED

RankStep = Literal["read", "refresh", "finish", "top_up", "refit", "export", "collect_reviews"]
TrainStep = Literal["retrain", "rescan", "adapt"]
Step = TrainStep | RankStep

READ_EVERY_S = 2.0  # no more often than this, however many webhooks arrive
# Every head adds a prediction to each open task, and a prediction must be kept for as long as an
# open browser tab may refer to it.
REFIT_EVERY_S = 5.0
REVIEWS_EVERY_S = 60.0
EXHAUSTED_AGAIN_S = 60.0
IMAGES_PER_PERSON = 5  # so that people who annotate at once do not run out of images
OUTLOOK_EVERY_S = 30.0  # heads replace each other every few seconds
LIST_TASKS_EVERY_S = 10.0  # no more often than this, however often tasks come and go
RETRY_AFTER_S: Mapping[str, float] = {
    "retrain": 30.0,
    "rescan": 30.0,
    "refit": 30.0,
    "read": 10.0,
    "refresh": 10.0,
    "finish": 10.0,
    "top_up": 10.0,
    "export": 60.0,
    "collect_reviews": 60.0,
}


@dataclass(frozen=True)
class State:
    """Everything that the decision depends on.

    Times are in seconds since the epoch; 0 means never. An annotation is new until a training run
    has used it, and becomes new again if it is changed or deleted.
    """

    facts: Facts  # what was recorded in the project's database
    n_new: int = 0  # new annotations found by the last reading, plus images in later webhooks
    first_new_at: float | None = None  # when the first new annotation was noticed
    hinted_at: float = 0.0  # when a webhook last reported a change
    train_asked_at: float = 0.0  # when a person last requested training
    rescan_asked_at: float = 0.0  # when a person last requested a search for new images
    may_pool_change: bool = False  # False for CIFAR-10 and the digits
    n_open: int = 0  # queried tasks that nobody has annotated
    n_at_work: int = 0  # people who are annotating at once
    rounds_done: int = 0
    in_service: str = ""  # version name
    is_attached: bool = False
    has_foreign_open: bool = False  # whether people added open tasks to a project that we created
    must_ask_sample: bool = False  # whether a validation task must be reopened
    acceptance: FinishReading | None = None  # None = no acceptance sample is being labeled

    @property
    def must_order(self) -> bool:
        """Return whether the open tasks need the predictions of another version.

        Before the first version, they need predictions only if the project has other open tasks,
        which Label Studio would otherwise serve just as often.
        """
        has_others = self.is_attached or self.has_foreign_open
        version = self.in_service or (UNTRAINED if has_others else "")
        return version not in ("", self.facts.ordered_by)

    @property
    def is_training_asked(self) -> bool:
        """Return whether a person requested training and no training run has finished since."""
        return self.train_asked_at > self.facts.trained_at

    @property
    def is_rescan_asked(self) -> bool:
        """Return whether a person requested a search and no search has finished since."""
        return self.rescan_asked_at > self.facts.rescanned_at

    @property
    def is_export_asked(self) -> bool:
        """Return whether a person requested the labels and no later export has finished."""
        return self.facts.export_asked_at > self.facts.exported_at

    def is_asked(self, step: TrainStep) -> bool:
        """Return whether a person requested this step."""
        if step == "adapt":
            return False
        return self.is_training_asked if step == "retrain" else self.is_rescan_asked


@dataclass(frozen=True)
class Decision:
    """At most one step per queue, and the time of the next check if nothing happens earlier."""

    train: TrainStep | None
    rank: RankStep | None
    look_at: float  # infinity if only a change can make a step due


def decide(state: State, settings: Settings, now: float) -> Decision:
    """Decide what is due at `now` (seconds since the epoch).

    Nothing is due while the project is gone from Label Studio.
    """
    if state.facts.gone:
        return Decision(None, None, math.inf)
    train_steps = _train_steps(state, settings, now)
    rank_steps = list(_rank_steps(state, settings))
    later = [at for _, at in (*train_steps, *rank_steps) if at > now]
    return Decision(
        train=next((step for step, at in train_steps if at <= now), None),
        rank=next((step for step, at in rank_steps if at <= now), None),
        look_at=min(later, default=math.inf),
    )


def is_listing_due(state: State, settings: Settings, now: float) -> bool:
    """Return whether a rescan must list the pool's source; otherwise, it only decodes images."""
    facts = state.facts
    is_behind = facts.tasks_revision != facts.listed_revision
    return is_behind or state.is_rescan_asked or facts.rescanned_at + settings.rescan_every_s <= now


def batch_size(settings: Settings, n_at_work: int) -> int:
    """Return how many images to query at a time while this many people annotate at once."""
    return max(settings.batch_size, IMAGES_PER_PERSON * n_at_work if n_at_work > 1 else 0)


def batch_is_due(
    settings: Settings, size: int, n_open: int, rounds_done: int, *, is_new_version: bool = False
) -> bool:
    """Return whether to query the next batch of `size` images.

    A batch is due if rounds remain and fewer than `size` tasks are open. With a new version, a
    batch is also due if exactly `size` tasks are open; the new images then come before them.
    """
    has_room = n_open < size or (is_new_version and n_open == size)
    return has_room and not 0 < settings.rounds <= rounds_done


def _train_steps(state: State, settings: Settings, now: float) -> Sequence[tuple[TrainStep, float]]:
    """Return each step of the trainer with its due time, most urgent first.

    A rescan that was due before the last training run began comes before the next training run.
    New images are therefore found and decoded no matter how often training is due. Adapting the
    body comes last, but training may have to wait for it.
    """
    train_at, rescan_at = _train_at(state, settings), _rescan_at(state, settings)
    adapt_at = _adapt_at(state, settings)
    may_wait = settings.train != "full" and not state.is_training_asked
    if adapt_at <= now and may_wait:
        train_at = max(train_at, adapting_rule.training_waits_until(settings.adapt, state.facts))
    steps: list[tuple[TrainStep, float]] = [("retrain", train_at), ("rescan", rescan_at)]
    urgent = steps[::-1] if rescan_at < state.facts.trained_at else steps
    return [*urgent, ("adapt", adapt_at)]


def _train_at(state: State, settings: Settings) -> float:
    """Return when training is due.

    Training is due at once if a person requested it, if enough annotations are new, or if it would
    start from another body than the last training run. Otherwise, it is due `retrain_wait_s` after
    the first new annotation.
    """
    retry_at = 0.0 if _can_read_again(state) else _retry_at(state, "retrain")
    if state.is_training_asked:
        # A request that was made after the last failure is carried out at once.
        return 0.0 if state.train_asked_at > state.facts.failed_at.get("retrain", 0.0) else retry_at
    has_new_start = state.facts.start_changed_at > state.facts.trained_at
    if state.n_new >= settings.retrain_after or (has_new_start and state.in_service):
        return retry_at
    if state.n_new and state.first_new_at is not None:
        return max(state.first_new_at + settings.retrain_wait_s, retry_at)
    return math.inf


def _rescan_at(state: State, settings: Settings) -> float:
    """Return when to look for new images or to decode images that were found."""
    if not state.may_pool_change:
        return math.inf
    facts = state.facts
    retry_at = _retry_at(state, "rescan")
    if state.is_rescan_asked:
        is_asked_again = state.rescan_asked_at > facts.failed_at.get("rescan", 0.0)
        return state.rescan_asked_at if is_asked_again else retry_at
    list_at = facts.rescanned_at + settings.rescan_every_s
    if facts.tasks_revision != facts.listed_revision:  # only in attached projects
        list_at = min(list_at, facts.rescanned_at + LIST_TASKS_EVERY_S)
    at = min(list_at, facts.decoded_at) if facts.undecoded_images else list_at
    return max(at, retry_at)


def _adapt_at(state: State, settings: Settings) -> float:
    """Return when to adapt the body to the pool, or to go on with it.

    The first version and the decoding of images come first. Nothing is adapted once no more images
    will be queried.
    """
    facts = state.facts
    is_over = adapting_rule.is_over(settings.rounds, state.rounds_done, facts)
    if not state.in_service or is_over or facts.undecoded_images:
        return math.inf
    if not adapting_rule.must_adapt(settings.adapt, facts.pool_images, facts.adapted_images):
        return math.inf
    return adapting_rule.retry_at(facts)


def _rank_steps(state: State, settings: Settings) -> Iterator[tuple[RankStep, float]]:
    """Yield each step of the ranker with its due time, most urgent first."""
    ask_at = _ask_at(state, settings)
    steps: tuple[tuple[RankStep, float], ...] = (
        ("read", _read_at(state)),
        ("refresh", 0.0 if state.must_order else math.inf),
        ("finish", 0.0 if _must_judge(state) else math.inf),
        ("top_up", math.inf if state.n_open else ask_at),  # nobody has anything to label
        ("refit", _refit_at(state, settings)),
        ("top_up", ask_at),
        ("finish", _outlook_at(state)),
        ("export", 0.0 if state.is_export_asked else math.inf),
        ("collect_reviews", _reviews_at(state)),
    )
    for step, at in steps:
        yield step, max(at, _retry_at(state, step))


def _read_at(state: State) -> float:
    if not state.facts.read_at:
        return 0.0
    is_hinted = state.hinted_at >= state.facts.read_at
    return state.facts.read_at + READ_EVERY_S if is_hinted else math.inf


def _ask_at(state: State, settings: Settings) -> float:
    if not state.facts.read_at:
        return math.inf  # the number of open tasks is unknown
    if settings.overlap in ("2", "3") and state.facts.revision > state.facts.looked_for_again:
        return 0.0
    if state.must_ask_sample and settings.may_reopen(is_attached=state.is_attached):
        return 0.0
    size = batch_size(settings, state.n_at_work)
    acceptance = state.acceptance
    is_sample_due = (
        acceptance is not None
        and acceptance.state == "asking"
        and bool(acceptance.unasked)
        and acceptance.n_open < size
    )
    is_due = is_sample_due or batch_is_due(settings, size, state.n_open, state.rounds_done)
    if not is_due:
        return math.inf
    return state.facts.exhausted_at + EXHAUSTED_AGAIN_S if state.facts.exhausted_at else 0.0


def _must_judge(state: State) -> bool:
    """Return whether a try to label the rest must begin, must end, or needs a task reopened."""
    if not state.facts.read_at:
        return False
    is_new = state.facts.revision > state.facts.finish_checked
    must_act = state.acceptance is not None and state.acceptance.must_act
    return state.facts.finish_wanted is not None or (is_new and must_act)


def _outlook_at(state: State) -> float:
    is_known = state.in_service in ("", state.facts.finish_outlook_of)
    return (
        math.inf
        if is_known or state.must_order
        else state.facts.finish_outlook_at + OUTLOOK_EVERY_S
    )


def _refit_at(state: State, settings: Settings) -> float:
    is_learned = state.facts.revision <= state.facts.head_revision
    if settings.train == "full" or not state.in_service or is_learned:
        return math.inf
    return state.facts.head_fitted_at + REFIT_EVERY_S


def _reviews_at(state: State) -> float:
    has_review = state.facts.review_project is not None
    return state.facts.reviews_read_at + REVIEWS_EVERY_S if has_review else math.inf


def _can_read_again(state: State) -> bool:
    """Return whether the last training run could not read Label Studio, but the clock now can.

    Such a run lost no work, so the next one need not wait.
    """
    failed_at = state.facts.failed_at.get("retrain", 0.0)
    return state.facts.unread_at >= failed_at and state.facts.read_at > failed_at


def _retry_at(state: State, step: str) -> float:
    failed_at = state.facts.failed_at.get(step)
    return 0.0 if failed_at is None else failed_at + RETRY_AFTER_S[step]
