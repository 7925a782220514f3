"""Report how accurate the versions are: in a sentence, as a learning curve and as a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from backend.labelstudio.project import OUR_DESCRIPTION
from backend.measures.evaluation import MIN_IMAGES, Evaluation, describe_accuracy
from backend.measures.forecast import CurvePoint, Forecast, forecast
from backend.measures.interval import interval_of
from backend.people.validation_labels import ValidationProgress
from backend.store.version_meta import Meta

NO_MODEL = "no model yet"
MORE_LABELS = 100
# With this many validation labels, an estimate from the training labels is no longer needed.
ENOUGH_LABELS = 100
OUTLOOK_POINTS = 30  # older points add little, and checking their forecasts is slow


def enough_labels(n_wanted: int) -> int:
    """Return how many validation labels make an estimate from the training labels unnecessary."""
    return max(MIN_IMAGES, min(ENOUGH_LABELS, n_wanted))


def describe_measured(validation: Evaluation | None, progress: ValidationProgress | None) -> str:
    """Describe a model's accuracy, and how many images are labeled if annotators label them."""
    if progress is None:
        return describe_accuracy(validation)
    if validation is None or validation.images < MIN_IMAGES:
        labeled = f"{progress.labeled:,} of {progress.wanted:,} validation images labeled"
        text = f"accuracy not known yet: {labeled}"
        if progress.wanted < MIN_IMAGES:
            text = f"accuracy unknown: {labeled}, but at least {MIN_IMAGES} are needed"
    else:
        low, high = interval_of(validation.accuracy, validation.images)
        text = (
            f"{validation.accuracy:.1%} right ({low:.1%} to {high:.1%}) on {validation.images:,} "
            "validation images labeled by annotators"
        )
    n_undecided = progress.undecided
    return f"{text}, {n_undecided} of {progress.asked:,} undecided" if n_undecided else text


def estimate_sentence(estimate: Evaluation) -> str:
    """Return an estimate of the accuracy, and why it is only that, as one sentence."""
    return (
        f"{estimate.accuracy:.0%} (cross-validated on {estimate.images:,} training labels, which "
        "are not a random sample: biased)"
    )


def describe_version(
    version: str,
    validation: Evaluation | None,
    labels: int,
    progress: ValidationProgress | None = None,
) -> str:
    """Return the name of the version in service, its accuracy and its number of labels."""
    accuracy = describe_measured(validation, progress)
    return f"{version} in service, {accuracy}, trained on {labels:,} labels"


def describe_project(version: Meta | None, progress: ValidationProgress | None = None) -> str:
    """Return the project's description in Label Studio."""
    round_, model = 0, NO_MODEL
    if version is not None:
        round_ = version.round
        model = describe_version(version.version, version.validation, version.labels, progress)
    return f"{OUR_DESCRIPTION} {round_}: {model}. Press Label All Tasks."


def learning_curve(sound: Sequence[Meta], current: str | None = None) -> tuple[CurvePoint, ...]:
    """Return one point per version, oldest first.

    `current` is the name of the version in service.
    """
    return tuple(_point(meta, meta.version == current) for meta in sound)


def outlook(sound: Sequence[Meta]) -> Forecast | None:
    """Forecast the gain from MORE_LABELS more labels.

    Uses only versions that have the same validation split as the newest version. Returns None if
    there are fewer than three full versions, or if that split is too small to distinguish versions.
    """
    validation = sound[-1].validation if sound else None
    n_images = validation.images if validation else 0
    if n_images < MIN_IMAGES:
        return None
    comparable = [
        meta
        for meta in sound
        if not meta.is_head
        and meta.refused is None
        and meta.validation is not None
        and meta.validation.images == n_images
    ]
    return _outlook(learning_curve(comparable[-OUTLOOK_POINTS:]))


def outlook_sentence(outlook: Forecast) -> str:
    """Return a forecast as one sentence."""
    more = outlook.more_labels
    gain, low, high = (100 * share for share in (outlook.gain, outlook.low, outlook.high))
    past = outlook.past
    record = (
        f"; {past.inside} of {past.forecasts} earlier forecasts held, off by "
        f"{100 * past.mean_error:.1f} on average"
        if past.forecasts
        else ""
    )
    return f"{more} more labels: {gain:+.1f} points ({low:.1f} to {high:.1f}){record}"


# A forecast takes tens of milliseconds, and an open dashboard requests one every second.
@lru_cache(maxsize=32)
def _outlook(curve: tuple[CurvePoint, ...]) -> Forecast | None:
    return forecast(curve, MORE_LABELS)


def _point(meta: Meta, is_current: bool) -> CurvePoint:
    validation = meta.validation
    low, high = interval_of(validation.accuracy, validation.images) if validation else (None, None)
    return CurvePoint(
        version=meta.version,
        made_at=meta.created_at,
        labels=meta.labels,
        accuracy=validation.accuracy if validation else None,
        low=low,
        high=high,
        images=validation.images if validation else 0,
        test_accuracy=meta.test.accuracy if meta.test else None,
        is_head=meta.is_head,
        is_current=is_current,
        refused=meta.refused,
        is_pruned=meta.pruned_at is not None,
    )
