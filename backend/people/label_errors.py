"""List the labels that are most likely wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.people.consensus import ClassAnnotation, Consensus, Row, latest_labels


@dataclass(frozen=True)
class LikelyError:
    """A label that another annotator or the model contradicts."""

    image_id: str
    label: str
    quality: float  # probability that the label is right, 0..1
    suggested: str  # the best-supported other label
    reason: str


def likely_errors(
    annotations: Iterable[ClassAnnotation],
    probs: Mapping[str, Row],
    consensus: Consensus,
    names: Sequence[str],
) -> list[LikelyError]:
    """List the contradicted labels, worst first; `names` contains the class names.

    Images with a ground truth or a label from the data set are left out.
    """
    annotations = list(annotations)
    settled = {a.image_id for a in annotations if a.is_ground_truth or a.annotator is None}
    by_image = latest_labels(annotations)
    found = []
    rows = zip(
        consensus.image_ids, consensus.labels.tolist(), consensus.quality.tolist(), strict=True
    )
    for image_id, label, quality in rows:
        if image_id in settled:
            continue
        counts = Counter(by_image[image_id].values())
        row = probs.get(image_id)
        rival = _find_rival(label, counts, row)
        if rival is not None:
            reason = _explain(label, counts, row, names)
            found.append(LikelyError(image_id, names[label], quality, names[rival], reason))
    return sorted(found, key=lambda error: (error.quality, error.image_id))


def _find_rival(label: int, counts: Mapping[int, int], row: Row | None) -> int | None:
    """Return the best-supported other label, or None if nothing contradicts `label`.

    The model counts as one annotator whose vote is split according to its probabilities.
    """
    rivals = {*counts} if row is None else {*counts, int(row.argmax())}
    support = {
        rival: counts.get(rival, 0) + (0.0 if row is None else float(row[rival]))
        for rival in rivals - {label}
    }
    return max(sorted(support), key=support.__getitem__, default=None)


def _explain(label: int, counts: Mapping[int, int], row: Row | None, names: Sequence[str]) -> str:
    """Describe which labels the annotators chose and what the model predicts."""
    n_annotators = sum(counts.values())
    who = f"{counts[label]} of {n_annotators} annotators"
    if counts[label] == n_annotators:
        who = {1: "one annotator", 2: "both annotators"}.get(
            n_annotators, f"all {n_annotators} annotators"
        )
    reason = f"{who} chose {names[label]}"
    others = sorted((-count, names[other]) for other, count in counts.items() if other != label)
    if len(others) == 1 and others[0][0] == -1:
        reason += f" (the other: {others[0][1]})"
    elif others:
        reason += f" (the others: {', '.join(f'{-count} {name}' for count, name in others)})"
    if row is None:
        return reason
    guess = int(row.argmax())
    model = "the model" if n_annotators > 1 else "the model, not trained on this annotation,"
    return f"{reason}; {model} predicts {names[guess]} ({100 * row[guess]:.0f} %)"
