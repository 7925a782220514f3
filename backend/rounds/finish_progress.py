"""Describe how far the model has labeled the rest, using only the project's folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from backend.base.settings import Settings
from backend.measures.acceptance import allowed_wrong
from backend.people.pace import annotations_per_hour
from backend.rounds.finish_reading import project_reading
from backend.store.finish_store import FinishStore, TryState
from backend.store.project_store import ProjectStore

TIMES_READ = 2000  # latest annotations, whose times show how fast people label


@dataclass(frozen=True)
class FinishProgress:
    """The last try to have the model label the rest of the images."""

    number: int = field(metadata={"description": "the number of the try, from 1"})
    state: TryState = field(
        metadata={
            "description": "`asking` (people label the acceptance sample), `passed`, `failed` or "
            "`canceled`"
        }
    )
    version: str = field(metadata={"description": "the version whose labels the try is about"})
    max_error: float = field(
        metadata={
            "description": "the largest share of wrong labels that the promise allows, 0 to 1"
        }
    )
    sample: int = field(metadata={"description": "images in the acceptance sample"})
    decided: int = field(metadata={"description": "images of the sample that people have judged"})
    errors: int = field(metadata={"description": "the model's errors among the decided images"})
    allowed_errors: int = field(metadata={"description": "the most errors that may be found"})
    model_labels: int = field(
        metadata={
            "description": "images that the model has labeled in all tries that passed, except "
            "images that people have labeled since; while `state` is `asking`, also the images "
            "that it labels if the try passes"
        }
    )
    most_wrong: int = field(
        metadata={"description": "how many of these labels are wrong at most, with 95 % confidence"}
    )
    unlabeled: int = field(
        metadata={
            "description": "images in the pool that no person had labeled when the images were "
            "last counted"
        }
    )
    left_for_people: int = field(
        metadata={"description": "how many of these images the model does not label"}
    )
    hours_left: float | None = field(
        metadata={
            "description": "hours of work until people have labeled these images, at the pace of "
            "the last day; null if the pace is unknown"
        }
    )


def finish_progress(settings: Settings, root: Path) -> FinishProgress | None:
    """Return the progress of a project's last try, or None if there was none."""
    finish = FinishStore(root)
    tries = finish.tries()
    if not tries:
        return None
    last, reading = tries[-1], project_reading(settings, root)
    n_labels = finish.n_model_labels()
    most_wrong = sum(one.most_wrong for one in tries if one.state == "passed")
    if reading is not None:
        n_labels, most_wrong = n_labels + last.n_left, most_wrong + last.most_wrong
    store = ProjectStore(root)
    n_unlabeled = max(n_labels, store.facts().unlabeled_images)
    n_left = n_unlabeled - n_labels
    pace = annotations_per_hour(store.annotation_times(TIMES_READ))
    return FinishProgress(
        number=last.number,
        state=last.state,
        version=last.version,
        max_error=last.max_error,
        sample=last.n_sample,
        decided=reading.n_decided if reading else last.n_decided,
        errors=reading.n_errors if reading else last.n_errors,
        allowed_errors=last.allowed_errors,
        model_labels=n_labels,
        most_wrong=most_wrong,
        unlabeled=n_unlabeled,
        left_for_people=n_left,
        hours_left=None if pace is None else n_left / pace,
    )


def finish_sentence(progress: FinishProgress) -> str:
    """Return a sentence that states how far a try is, or "" if the try was canceled."""
    n_errors = f"{progress.errors:,} error{'' if progress.errors == 1 else 's'}"
    counted = f"{n_errors} ({progress.allowed_errors:,} allowed)"
    if progress.state == "asking":
        return f"acceptance sample: {progress.decided:,} of {progress.sample:,} labeled, {counted}"
    if progress.state == "failed":
        return (
            f"the acceptance sample failed: {counted} in {progress.decided:,} of "
            f"{progress.sample:,} images. Label more images, then try again"
        )
    if progress.state == "canceled":
        return ""
    return f"{_labeled(progress)}; {_left(progress)}"


def percent(share: float) -> str:
    """Return a share as a percentage, for example "2 %" or "0.5 %"."""
    return f"{100 * share:.3g} %"


def promise(progress: FinishProgress) -> str:
    """Return the promise about the model's labels, as text.

    The text states a share if the last try's share holds for all labels, and a number otherwise.
    """
    allowed = allowed_wrong(progress.model_labels, progress.max_error)
    is_share_kept = progress.most_wrong <= allowed
    wrong = percent(progress.max_error) if is_share_kept else f"{progress.most_wrong:,}"
    return f"at most {wrong} wrong, with 95 % confidence"


def _labeled(progress: FinishProgress) -> str:
    return (
        f"{progress.model_labels:,} of {progress.unlabeled:,} can be labeled by the model "
        f"({promise(progress)})"
    )


def _left(progress: FinishProgress) -> str:
    if not progress.left_for_people:
        return "none are left for people"
    text = f"{progress.left_for_people:,} are left for people"
    hours = progress.hours_left
    if hours is None:
        return text
    time = f"{60 * hours:.0f} minutes" if hours < 1.5 else f"{hours:.0f} hours"
    return f"{text}, about {time} at today's pace"
