"""Draw a plan of faults."""

from __future__ import annotations

from random import Random

from scripts.research.chaos.fault import Fault
from scripts.research.chaos.trial import draw_faults

FAULTS = tuple(Fault(name, lambda *_: lambda: None, (0.0, 0.0)) for name in "abcde")


def test_a_plan_has_every_kind_of_fault_and_the_same_seed_gives_the_same_plan() -> None:
    plan = draw_faults(FAULTS, 12, Random(1))
    assert len(plan) == 12
    assert set(plan) == set(FAULTS)
    assert plan == draw_faults(FAULTS, 12, Random(1))
    assert plan != draw_faults(FAULTS, 12, Random(2))


def test_a_plan_with_fewer_faults_than_kinds_repeats_none() -> None:
    assert len(set(draw_faults(FAULTS, 4, Random(1)))) == 4
