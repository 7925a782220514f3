"""State when the body is adapted to the pool, for how long, and how long training waits for it."""

from __future__ import annotations

import math

from backend.base.settings import AdaptSetting
from backend.store.project_rows import Facts

MIN_IMAGES = 5_000  # with ADAPT=auto; a cautious limit, because few smaller pools were measured
AUTO_MINUTES = 30.0
AUTO_PASSES = 100.0  # over the pool; in a small pool or on a GPU, they take less than AUTO_MINUTES
GROWTH = 1.2  # adapt again once the pool has grown by a fifth
RETRY_S = 600.0
MAX_FAILURES = 3  # in a row; after these, training no longer waits
RETRY_LATER_S = 24 * 3600.0


def must_adapt(setting: AdaptSetting, n_images: int, n_adapted: int) -> bool:
    """Return whether a body must be adapted to a pool of `n_images` images.

    `n_adapted` is how many images the pool had when the last complete adaptation began; it is 0 if
    there was none, or if a person has requested another one.
    """
    if setting == "off" or n_images < (MIN_IMAGES if setting == "auto" else 1):
        return False
    return n_images >= GROWTH * n_adapted


def max_seconds(setting: AdaptSetting) -> float:
    """Return how many seconds an adaptation may take."""
    if setting == "off":
        return 0.0
    return 60 * (AUTO_MINUTES if setting == "auto" else setting)


def share_done(setting: AdaptSetting, spent_s: float, passes: float) -> float:
    """Return how much of an adaptation is done, from 0 to 1, after that many passes over the pool.

    This is also the position in the schedule of the learning rate.
    """
    if setting == "off":
        return 1.0
    by_passes = passes / AUTO_PASSES if setting == "auto" else 0.0
    return min(1.0, max(spent_s / max_seconds(setting), by_passes))


def expected_seconds(setting: AdaptSetting, spent_s: float, passes: float) -> float:
    """Return how many seconds an adaptation will take in total, at the pace so far."""
    done = share_done(setting, spent_s, passes)
    longest = max_seconds(setting)
    return min(longest, spent_s / done) if done else longest


def retry_at(facts: Facts) -> float:
    """Return the earliest time of the next attempt; 0 unless the last attempt failed."""
    failed_at = facts.failed_at.get("adapt")
    if failed_at is None:
        return 0.0
    has_tries_left = facts.adapt_failures < MAX_FAILURES
    return failed_at + (RETRY_S if has_tries_left else RETRY_LATER_S)


def is_over(rounds: int, rounds_done: int, facts: Facts) -> bool:
    """Return whether no more images will be queried, so that a better body helps no choice.

    `rounds` is how many rounds are to be made, 0 if there is no limit.
    """
    return 0 < rounds <= rounds_done or bool(facts.exhausted_at)


def training_waits_until(setting: AdaptSetting, facts: Facts) -> float:
    """Return until when training waits for the first adaptation, if that can go on.

    Training waits until the adaptation has had its time since the first version. After that, the
    two take turns: each may take as long as the last training run took. However, if the adaptation
    needs less than that to end, training waits for its end, because a run from the body so far
    would only delay the run from the adapted one.
    """
    if facts.adapted_at or facts.adapt_failures >= MAX_FAILURES:
        return -math.inf
    last_run_s = max(0.0, facts.training_ended_at - facts.trained_at)
    if facts.adapt_began_at and facts.adapt_budget_s - facts.adapt_spent_s <= last_run_s:
        return math.inf
    turn_ends_at = facts.training_ended_at + last_run_s
    return max(facts.first_version_at + max_seconds(setting), turn_ends_at)
