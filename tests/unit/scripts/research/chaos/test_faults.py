"""Check the kinds of faults that `make chaos` draws from."""

from __future__ import annotations

from scripts.research.chaos.faults import FAULTS


def test_every_kind_has_a_unique_name() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)


def test_only_faults_that_wait_for_a_heartbeat_may_take_longer() -> None:
    longer = [fault for fault in FAULTS if fault.limit_s is not None]
    assert longer
    assert all(fault.waits_for_heartbeat for fault in longer)


def test_enough_kinds_need_no_heartbeat_for_the_short_form() -> None:
    assert len([fault for fault in FAULTS if not fault.waits_for_heartbeat]) >= 5
