"""Let a model label the rest of a pool whose labels are hidden, and count its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from backend.base.arrays import Labels, Scores
from backend.measures.acceptance import allowed_wrong, share_of
from backend.measures.calibration import fit_temperature, rescale
from backend.measures.finish_plan import choose_plan
from scripts.research.experiment import Rows
from scripts.research.finish_models import TrainedModel
from scripts.research.hidden_pool import HiddenPool

TRIES = 2
MAX_ERRORS = (0.02, 0.05, 0.10)


@dataclass(frozen=True)
class Condition:
    """The circumstances of a run. By default, the model is calibrated and people make no errors."""

    name: str
    n_validation: int = 2000
    temperature: float = 1.0  # applied to the calibrated probabilities
    has_real_people: bool = False  # whether people give real annotations to the sample


CONDITIONS = (
    Condition("calibrated"),
    Condition("temperature 0.5", temperature=0.5),
    Condition("temperature 2", temperature=2.0),
    Condition("200 validation labels", n_validation=200),
    Condition("real annotations", has_real_people=True),
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model's labels for all images in a pool, and the truth, which a try does not see."""

    confidence: Scores
    is_right: NDArray[np.bool_]  # a try sees this only for validation images
    is_accepted: NDArray[np.bool_]  # whether people would accept the model's label
    held_out: Rows  # the validation images
    unlabeled: Rows


@dataclass(frozen=True)
class Outcome:
    """How the tries of one run ended."""

    condition: str
    model: int  # the seed of the model
    draw: int  # which sample was drawn with this model
    labels: int  # number of labels that the model was trained on
    max_error: float
    accuracy: float  # on the images without a label
    n_unlabeled: int
    n_tries: int = 0  # 0 if there was no plan
    pass_probability: float = 0.0  # of the first plan
    n_sample: int = 0  # of the first plan
    n_asked: int = 0  # images that people labeled in all tries
    n_by_model: int = 0  # 0 if no try passed
    n_wrong: int = 0  # of these
    n_allowed_wrong: int = 0


def run_conditions(
    model: TrainedModel, pool: HiddenPool, seed: int, draw: int
) -> Iterator[Outcome]:
    """Let the model label the rest under each condition, and with each promise.

    `seed` is the model's seed. The condition with real annotations is left out if there are none.
    """
    for condition in CONDITIONS:
        if condition.has_real_people and pool.annotations is None:
            continue
        candidate = make_candidate(model, pool, condition, draw)
        accuracy = float(candidate.is_right[candidate.unlabeled].mean())
        for max_error in MAX_ERRORS:
            before = Outcome(
                condition.name,
                seed,
                draw,
                len(model.asked),
                max_error,
                accuracy,
                len(candidate.unlabeled),
            )
            rng = np.random.default_rng([seed, len(model.asked), draw])
            yield run_tries(candidate, before, rng)


def make_candidate(
    model: TrainedModel, pool: HiddenPool, condition: Condition, draw: int
) -> Candidate:
    """Calibrate a model on its validation images, as the loop does, and have people judge it."""
    held_out = model.held_out[: condition.n_validation]
    fitted = fit_temperature(model.probs[held_out], pool.truth[held_out])
    predicted = model.probs.argmax(axis=1)
    is_right = predicted == pool.truth
    is_accepted = is_right
    if condition.has_real_people and pool.annotations is not None:
        annotations = np.random.default_rng(draw).permuted(pool.annotations, axis=1)
        is_accepted = accepted(predicted, annotations)
    return Candidate(
        rescale(model.probs, fitted * condition.temperature).max(axis=1),
        is_right,
        is_accepted,
        held_out,
        np.setdiff1d(np.arange(len(pool.truth)), np.append(model.asked, model.held_out)),
    )


def accepted(predicted: Labels, annotations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each image whether people accept the model's label.

    `annotations` contains people's labels, (images, people), in the order in which people are
    asked. If the first person chooses the model's label, people accept it. Otherwise, a second
    person labels the image, and a third if the first two differ; the label is accepted if both of
    them choose it.
    """
    agrees = annotations[:, :3] == predicted[:, None]
    return agrees[:, 0] | (agrees[:, 1] & agrees[:, 2])


def run_tries(candidate: Candidate, before: Outcome, rng: np.random.Generator) -> Outcome:
    """Try to let the model label the rest, and try once more if that fails.

    The model stays the same, although it would usually be better by the second try.
    """
    outcome, unlabeled = before, candidate.unlabeled
    for n_earlier in range(TRIES):
        plan = choose_plan(
            candidate.confidence[candidate.held_out],
            candidate.is_right[candidate.held_out],
            candidate.confidence[unlabeled],
            before.max_error,
            share_of(n_earlier),
        )
        if plan is None:
            break
        if n_earlier == 0:
            outcome = replace(
                outcome, pass_probability=plan.pass_probability, n_sample=plan.n_sample
            )
        above = rng.permutation(unlabeled[candidate.confidence[unlabeled] >= plan.threshold])
        sample, rest = np.split(above, [plan.n_sample])
        n_asked, is_passed = judge(candidate.is_accepted[sample], plan.allowed_errors)
        outcome = replace(outcome, n_tries=outcome.n_tries + 1, n_asked=outcome.n_asked + n_asked)
        if is_passed:
            return replace(
                outcome,
                n_by_model=len(rest),
                n_wrong=int((~candidate.is_right[rest]).sum()),
                n_allowed_wrong=allowed_wrong(len(rest), plan.max_error),
            )
        unlabeled = np.setdiff1d(unlabeled, sample[:n_asked])
    return outcome


def judge(is_accepted: NDArray[np.bool_], allowed_errors: int) -> tuple[int, bool]:
    """Return how many images of a sample people label, and whether the try passes.

    A try ends as soon as there are too many errors.
    """
    errors = np.flatnonzero(~is_accepted)
    if len(errors) <= allowed_errors:
        return len(is_accepted), True
    return int(errors[allowed_errors]) + 1, False


def summarize(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table with a row for each condition, number of labels and promise."""
    lines = [
        "| condition | labels | accuracy | at most wrong | runs with a plan | passed | predicted "
        "| sample | labeled by the model | wrong of these | promise broken |",
        "|---" * 11 + "|",
    ]
    keys = ["condition", "labels", "max_error"]
    for (condition, labels, max_error), of in pd.DataFrame(outcomes).groupby(keys, sort=False):
        planned, passed = of[of.n_tries > 0], of[of.n_by_model > 0]
        n_broken = (passed.n_wrong > passed.n_allowed_wrong).sum()
        lines.append(
            f"| {condition} | {labels:,} | {of.accuracy.mean():.1%} | {max_error:.0%} "
            f"| {len(planned)} of {len(of)} | {len(passed)} "
            f"| {_mean(planned.pass_probability, '.0%')} | {_mean(planned.n_sample, '.0f')} "
            f"| {(of.n_by_model / of.n_unlabeled).mean():.1%} "
            f"| {_mean(passed.n_wrong / passed.n_by_model, '.1%')} | {n_broken} of {len(of)} |"
        )
    return "\n".join(lines)


def _mean(values: pd.Series, form: str) -> str:
    return format(values.mean(), form) if len(values) else ""
