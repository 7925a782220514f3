"""Decide whether a candidate version may be promoted, by comparing the versions' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from backend.measures.evaluation import MIN_IMAGES as MIN_MEASURED

Right = NDArray[np.bool_]  # (images,), whether a version predicts each image's label

SIGNIFICANCE = 0.025
# With fewer images of known labels, six regressions are already a large loss, but fewer than six
# are never significant. Annotators' labels come slowly, so that they count from MIN_MEASURED on.
MIN_IMAGES = 100


@dataclass(frozen=True)
class Gate:
    """A comparison of a candidate with the version `against` on the same validation images."""

    against: str
    p_value: float = field(metadata={"ge": 0, "le": 1})  # McNemar's test; null hypothesis: no worse
    # Regressions are images that only the reference classified correctly; improvements are images
    # that only the candidate classified correctly. The aliases are older names that meta.json still
    # uses.
    regressions: int = field(metadata={"ge": 0, "le": 10**9, "alias": "fell"})
    improvements: int = field(metadata={"ge": 0, "le": 10**9, "alias": "rose"})
    note: str = ""  # why the comparison was ignored, or ""


@dataclass(frozen=True)
class Verdict:
    """The decision whether a candidate may be promoted, and the comparison behind it."""

    gate: Gate | None  # None if there is no version to compare with
    refused: str | None  # why it may not be promoted; None if it may


def judge(
    candidate: Right, references: Mapping[str, Right], n_wanted: int | None = None
) -> Verdict:
    """Refuse a candidate that is significantly worse than any of the references.

    `references` maps version names to their results on the same images in the same order, starting
    with the version in service. If no comparison leads to a refusal, the first comparison is
    reported. `n_wanted` is how many images annotators are asked to label for this; None if the
    labels are known.
    """
    gates = [
        compare(candidate, reference, name, n_wanted) for name, reference in references.items()
    ]
    for gate in gates:
        if not gate.note and gate.p_value < SIGNIFICANCE:
            return Verdict(
                gate,
                f"significantly worse than {gate.against} on validation: "
                f"{candidate.mean():.1%} against {references[gate.against].mean():.1%}; "
                f"{gate.regressions} regressions, {gate.improvements} improvements "
                f"(p = {gate.p_value:.2g})",
            )
    return Verdict(gates[0] if gates else None, None)


def compare(candidate: Right, reference: Right, against: str, n_wanted: int | None = None) -> Gate:
    """Compare two versions by McNemar's exact, one-sided test (McNemar, 1947).

    Both arrays cover the same images in the same order. If the versions are equally good, each
    image on which they differ is equally likely to be a regression or an improvement. `p_value` is
    the probability of at least this many regressions.
    """
    regressions = int((reference & ~candidate).sum())
    improvements = int((candidate & ~reference).sum())
    p_value = float(bdtrc(regressions - 1, regressions + improvements, 0.5))
    note = _find_note(len(candidate), n_wanted)
    return Gate(against, p_value, regressions, improvements, note)


def _find_note(n_images: int, n_wanted: int | None) -> str:
    """Return why a comparison on so few images is ignored, or ""."""
    if n_wanted is not None and n_images < MIN_MEASURED:
        return f"not judged yet ({n_images} of {n_wanted} validation images labeled)"
    if n_wanted is None and n_images < MIN_IMAGES:
        return f"{n_images} validation images are too few to compare versions: promoted unchecked"
    return ""
