"""Decide whether a candidate may replace the version in service, from what both got right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Right = NDArray[np.bool_]  # (images,), whether a version's favourite class is the label

SIGNIFICANCE = 0.025
# With fewer images even six regressions, the fewest that can be significant, are a large loss.
MIN_IMAGES = 100


@dataclass(frozen=True)
class Gate:
    """How a candidate compares with the version `against`, on the same validation images."""

    against: str
    p_value: float = field(metadata={"ge": 0, "le": 1})  # that it is no worse, by McNemar's test
    # meta.json has kept these two under their first names.
    regressions: int = field(metadata={"ge": 0, "le": 10**9, "alias": "fell"})  # right before
    improvements: int = field(metadata={"ge": 0, "le": 10**9, "alias": "rose"})  # right only now
    note: str = ""  # why the comparison was not heeded


@dataclass(frozen=True)
class Verdict:
    """The comparison that decided, None without a version to compare with; why not to promote."""

    gate: Gate | None
    refused: str | None  # None: it may be promoted


def judge(candidate: Right, references: Mapping[str, Right]) -> Verdict:
    """Refuse a candidate that is significantly worse than any of the references.

    `references` are versions by name, the one in service first: its comparison is kept where no
    other one decides. All are measured on the same images in the same order.
    """
    gates = []
    for name, reference in references.items():
        gate = compare(candidate, reference, name)
        if not gate.note and gate.p_value < SIGNIFICANCE:
            return Verdict(
                gate,
                f"significantly worse than {name} on validation: "
                f"{candidate.mean():.1%} against {reference.mean():.1%}; "
                f"{gate.regressions} regressions, {gate.improvements} improvements "
                f"(p = {gate.p_value:.2g})",
            )
        gates.append(gate)
    return Verdict(gates[0] if gates else None, None)


def compare(candidate: Right, reference: Right, against: str) -> Gate:
    """McNemar's exact test, one-sided, on the same images in the same order.

    If both versions are equally good, each image on which they differ is a regression or an
    improvement with equal chance; `p_value` is the chance of at least as many regressions
    (McNemar, 1947).
    """
    regressions = int((reference & ~candidate).sum())
    improvements = int((candidate & ~reference).sum())
    n_differ = regressions + improvements
    p_value = 1.0
    if n_differ:
        p_value = float(binomtest(regressions, n_differ, alternative="greater").pvalue)
    note = ""
    if len(candidate) < MIN_IMAGES:
        note = (
            f"{len(candidate)} validation images are too few to compare versions: "
            "promoted unchecked"
        )
    return Gate(against, p_value, regressions, improvements, note)
