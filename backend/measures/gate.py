"""Decide whether a candidate version may be promoted, by comparing the versions' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

Right = NDArray[np.bool_]  # (images,), whether a version predicts each image's label

SIGNIFICANCE = 0.025
# With fewer images, six regressions are already a large loss, but fewer than six are never
# significant.
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


def judge(candidate: Right, references: Mapping[str, Right]) -> Verdict:
    """Refuse a candidate that is significantly worse than any of the references.

    `references` maps version names to their results on the same images in the same order, starting
    with the version in service. If no comparison leads to a refusal, the first comparison is
    reported.
    """
    gates = [compare(candidate, reference, name) for name, reference in references.items()]
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


def compare(candidate: Right, reference: Right, against: str) -> Gate:
    """Compare two versions by McNemar's exact, one-sided test (McNemar, 1947).

    Both arrays cover the same images in the same order. If the versions are equally good, each
    image on which they differ is equally likely to be a regression or an improvement. `p_value` is
    the probability of at least this many regressions.
    """
    regressions = int((reference & ~candidate).sum())
    improvements = int((candidate & ~reference).sum())
    p_value = float(binom.sf(regressions - 1, regressions + improvements, 0.5))
    note = ""
    if len(candidate) < MIN_IMAGES:
        note = (
            f"{len(candidate)} validation images are too few to compare versions: "
            "promoted unchecked"
        )
    return Gate(against, p_value, regressions, improvements, note)
