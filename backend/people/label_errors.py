"""Label errors: people's answers, what a model thinks and the consensus in; the labels that are
most likely wrong out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.people.consensus import Answer, Consensus, Row


@dataclass(frozen=True)
class LikelyError:
    """A label that somebody contradicts: another person, or the model."""

    image_id: str
    label: str
    quality: float  # how likely the label is right, 0..1
    suggested: str  # the other label that most speaks for
    reason: str


def likely_errors(
    answers: Iterable[Answer],
    probs: Mapping[str, Row],
    consensus: Consensus,
    names: Sequence[str],
) -> list[LikelyError]:
    """The contradicted labels that people gave, worst first; `names` are the classes'.

    Images that a ground truth or the data set has settled are not among them.
    """
    given = sorted(answers, key=lambda answer: answer.answered_at)
    settled = {a.image_id for a in given if a.is_ground_truth or a.annotator is None}
    said: dict[str, dict[int | None, int]] = defaultdict(dict)
    for answer in given:
        said[answer.image_id][answer.annotator] = answer.label
    found = []
    rows = zip(
        consensus.image_ids, consensus.labels.tolist(), consensus.quality.tolist(), strict=True
    )
    for image_id, label, quality in rows:
        if image_id in settled:
            continue
        votes = Counter(said[image_id].values())
        row = probs.get(image_id)
        rival = _rival(label, votes, row)
        if rival is not None:
            reason = _reason(label, votes, row, names)
            found.append(LikelyError(image_id, names[label], quality, names[rival], reason))
    return sorted(found, key=lambda error: (error.quality, error.image_id))


def _rival(label: int, votes: Mapping[int, int], row: Row | None) -> int | None:
    """The label with the most support of those that contradict; the model counts as one person who
    gives each class its probability.
    """
    rivals = set(votes)
    if row is not None:
        rivals.add(int(row.argmax()))
    rivals.discard(label)
    support = {
        rival: votes.get(rival, 0) + (0.0 if row is None else float(row[rival])) for rival in rivals
    }
    return max(sorted(support), key=support.__getitem__, default=None)


def _reason(label: int, votes: Mapping[int, int], row: Row | None, names: Sequence[str]) -> str:
    n_people = sum(votes.values())
    if n_people == 1:
        people = f"one person says {names[label]}"
    elif votes[label] == n_people:
        everybody = "both" if n_people == 2 else f"all {n_people}"
        people = f"{everybody} people say {names[label]}"
    else:
        verb = "says" if votes[label] == 1 else "say"
        people = f"{votes[label]} of {n_people} people {verb} {names[label]}"
        others = sorted((-count, names[other]) for other, count in votes.items() if other != label)
        people += "".join(f", {-count} {name}" for count, name in others)
    if row is None:
        return people
    guess = int(row.argmax())
    model = "the model, which never saw that answer," if n_people == 1 else "the model"
    return f"{people}; {model} says {names[guess]} ({100 * row[guess]:.0f} %)"
