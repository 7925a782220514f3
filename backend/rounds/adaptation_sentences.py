"""Say in sentences how far the body is adapted to the pool, and what that brought."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from backend.base.settings import Settings
from backend.rounds import adapting_rule
from backend.store.bodies import Start
from backend.store.body_meta import PRETRAINED, BodyComparison, BodyMeta
from backend.store.project_rows import Facts

AdaptationState = Literal["off", "too_few_images", "waiting", "running", "paused", "done", "failed"]
PHASE = "adapting"  # the first word of the phase in which the job counts seconds
MEANWHILE = "Labeling continues meanwhile."
NOTHING_QUERIED = "no more images will be queried"


@dataclass(frozen=True)
class Adaptation:
    """Everything that the sentences about a project's adaptation depend on."""

    settings: Settings
    facts: Facts
    state: AdaptationState
    spent_s: float
    budget_s: float
    phase: str  # what the running job does; "" if it has not reported it
    body: BodyMeta | None  # the newest
    start: Start
    start_fault: str  # why the chosen start cannot be used, or ""
    has_weights: bool  # False with WEIGHTS=none
    has_version: bool
    is_over: bool  # no more images will be queried
    now: float

    def sentences(self) -> Iterator[str]:
        """Yield what happens now or why nothing happens, what it brought, and what is wrong."""
        yield from {
            "off": self._off,
            "too_few_images": self._too_few_images,
            "waiting": self._waiting,
            "running": self._running,
            "paused": self._paused,
            "done": self._done,
            "failed": self._failed,
        }[self.state]()
        if self.body is not None:
            yield from self._gain(self.body)
        elif self.state in ("off", "too_few_images") or self._is_given_up:
            yield f"Training runs start from {self._start}."
        if self.start_fault:
            yield f"The chosen start cannot be used: {self.start_fault.rstrip('.')}."

    @property
    def _start(self) -> str:
        return start_text(self.start.name, has_weights=self.has_weights)

    @property
    def _is_given_up(self) -> bool:
        return self.facts.adapt_failures >= adapting_rule.MAX_FAILURES

    @property
    def _how_long(self) -> str:
        return f"for at most {minutes_text(self.budget_s)} minutes"

    def _off(self) -> Iterator[str]:
        yield "The body is not adapted to the pool, because `ADAPT=off` is set."

    def _too_few_images(self) -> Iterator[str]:
        yield (
            f"The body is not adapted to the pool: `ADAPT=auto` needs "
            f"{adapting_rule.MIN_IMAGES:,} images, and the pool has {self.facts.pool_images:,}. To "
            "adapt it nevertheless, set `ADAPT` to a number of minutes."
        )

    def _waiting(self) -> Iterator[str]:
        if self.is_over:
            again = " again" if self.body is not None else ""
            yield f"The body is not adapted to the pool{again}, because {NOTHING_QUERIED}."
        elif not self.has_version:
            yield (
                "Once the first version is trained, the trainer adapts the body to the pool "
                f"{self._how_long}. {MEANWHILE}"
            )
        elif self.facts.undecoded_images or not self.facts.pool_images:
            yield "Once all images are decoded, the trainer adapts the body to the pool."
        else:
            n_before = self.facts.adapted_images
            grown = f"The pool has grown from {n_before:,} images to {self.facts.pool_images:,}. "
            yield (
                f"{grown if n_before else ''}As soon as the trainer is free, it adapts the body to "
                f"the pool {self._how_long}. {MEANWHILE}"
            )

    def _running(self) -> Iterator[str]:
        if self.phase and not self.phase.startswith(PHASE):
            yield f"The trainer has adapted the body and now compares it ({self.phase})."
        else:
            yield (
                "The trainer is adapting the body to the pool: "
                f"{minutes_text(self.spent_s)} of at most {minutes_text(self.budget_s)} minutes "
                "are done."
            )
        yield MEANWHILE
        if self.settings.train == "full" or self.facts.adapted_at or self._is_given_up:
            yield "Training runs come first."
        elif self.now < adapting_rule.training_waits_until(self.settings.adapt, self.facts):
            yield "Full training runs wait for it, and heads learn the new annotations."
        else:
            yield "Full training runs take turns with it."

    def _paused(self) -> Iterator[str]:
        if self.is_over:
            yield f"Adapting the body to the pool has stopped, because {NOTHING_QUERIED}."
            return
        yield (
            "Adapting the body to the pool is paused after "
            f"{minutes_text(self.spent_s)} of at most {minutes_text(self.budget_s)} minutes."
        )
        if (wait_s := adapting_rule.retry_at(self.facts) - self.now) > 0:
            yield f"An error interrupted it, so it continues in {minutes_text(wait_s)} minutes."
        else:
            yield (
                "It continues as soon as the trainer has no training run or search for new images "
                "to do first."
            )

    def _done(self) -> Iterator[str]:
        if self.body is None:  # its folder was deleted or cannot be read
            yield f"The body was adapted to the pool. Training runs start from {self._start}."

    def _failed(self) -> Iterator[str]:
        error = self.facts.adapt_error.rstrip(".") or "see the trainer log"
        if self._is_given_up:
            yield (
                f"Adapting the body failed {self.facts.adapt_failures} times: {error}. It is tried "
                "once a day; training runs no longer wait for it. To stop it, set `ADAPT=off`."
            )
        else:
            yield (
                f"Adapting the body failed: {error}. It is tried again within "
                f"{adapting_rule.RETRY_S / 60:.0f} minutes. {MEANWHILE}"
            )

    def _gain(self, body: BodyMeta) -> Iterator[str]:
        """Yield what training runs start from, and how good the newest body is."""
        is_start, by_person = self.start.name == body.name, self.start.chosen_by == "person"
        chosen = ", as a person chose" if by_person else ""
        if is_start:
            yield f"Training runs start from {body.name}, the body adapted to the pool{chosen}."
        elif body.refused:
            yield (
                f"{body.name}, the body adapted to the pool, was refused, so training runs start "
                f"from {self._start}{chosen}."
            )
        else:
            yield f"Training runs start from {self._start}{chosen}, and not from {body.name}."
        comparison = body.comparison
        if comparison is None or comparison.p_value is None:
            yield (
                "Too few validation images were labeled to compare it with "
                f"{start_text(comparison.against if comparison else '', self.has_weights)}."
            )
        else:
            yield comparison_sentence(body.name, comparison, has_weights=self.has_weights)
            if comparison.accuracy_after < comparison.accuracy_before and not body.refused:
                yield "The difference is within chance."
        if body.refused and not is_start and body.pruned_at is None:
            yield f"To use it nevertheless, run `python -m scripts.models start {body.name}`."


def comparison_sentence(name: str, comparison: BodyComparison, *, has_weights: bool = True) -> str:
    """Return the accuracy of a head on a body and of one on another start, as a sentence."""
    other = start_text(comparison.against, has_weights=has_weights)
    return (
        f"A head on {name} is right on {comparison.accuracy_after:.1%} of the "
        f"{comparison.validation_images:,} validation images, one on {other} on "
        f"{comparison.accuracy_before:.1%}, with the same {comparison.labels:,} labels."
    )


def start_text(start: str, has_weights: bool = True) -> str:
    """Return how sentences name a start; without pre-trained weights, training starts untrained."""
    if start in ("", PRETRAINED):
        return "the pre-trained body" if has_weights else "an untrained body"
    return start


def minutes_text(seconds: float) -> str:
    """Return a time in minutes, with one decimal place below ten: "0.5", "3", "29"."""
    minutes = seconds / 60
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}".removesuffix(".0")
