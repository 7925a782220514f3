"""Test McNemar's exact test on hand-made results, and the verdicts that follow from it."""

from __future__ import annotations

import numpy as np
import pytest

from backend.measures.gate import SIGNIFICANCE, Right, Verdict, compare, judge


def right(text: str) -> Right:
    """Read one character per image; + is right."""
    return np.array([letter == "+" for letter in text])


def test_only_images_on_which_the_versions_differ_count() -> None:
    found = compare(right("++--+-"), right("+++-++"), "r0001")
    assert (found.regressions, found.improvements) == (2, 0)
    assert found.p_value == pytest.approx(1 / 4)  # two coins, both tails


def test_the_p_value_is_the_chance_of_at_least_as_many_regressions() -> None:
    # Of 5 images that differ 4 are regressions: (5 + 1) of 32 outcomes are as bad or worse.
    found = compare(right("----+"), right("++++-"), "r0001")
    assert found.p_value == pytest.approx(6 / 32)


def test_six_regressions_are_significant_and_five_are_not() -> None:
    def p_value(count: int) -> float:
        return compare(right("-" * count), right("+" * count), "r0001").p_value

    assert p_value(5) == pytest.approx(1 / 32)
    assert p_value(5) > SIGNIFICANCE > p_value(6)


def test_a_better_version_and_an_equal_one_are_never_worse() -> None:
    assert compare(right("++++++++"), right("--------"), "r0001").p_value == 1.0
    assert compare(right("+-+-"), right("+-+-"), "r0001").p_value == 1.0


def test_equal_versions_are_refused_no_more_often_than_the_significance() -> None:
    rng = np.random.default_rng(0)
    refused = [
        compare(rng.random(400) < 0.7, rng.random(400) < 0.7, "r0001").p_value < SIGNIFICANCE
        for _ in range(1000)
    ]
    assert 0 < np.mean(refused) < SIGNIFICANCE + 3 * np.sqrt(SIGNIFICANCE / 1000)


# Verdicts on 100 images, of which a version gets the first `wrong` ones wrong


def of_hundred(wrong: int) -> Right:
    return right("-" * wrong + "+" * (100 - wrong))


def decided(verdict: Verdict) -> tuple[str, int, int]:
    """Return the deciding comparison: against which version, regressions, improvements."""
    assert verdict.gate is not None
    return verdict.gate.against, verdict.gate.regressions, verdict.gate.improvements


def test_a_candidate_with_six_regressions_is_refused_with_a_reason() -> None:
    verdict = judge(of_hundred(6), {"r0001": of_hundred(0)})
    assert decided(verdict) == ("r0001", 6, 0)
    assert verdict.refused == (
        "significantly worse than r0001 on validation: 94.0% against 100.0%; "
        "6 regressions, 0 improvements (p = 0.016)"
    )


def test_a_candidate_with_five_regressions_passes_with_its_comparison() -> None:
    verdict = judge(of_hundred(5), {"r0001": of_hundred(0)})
    assert (decided(verdict), verdict.refused) == (("r0001", 5, 0), None)


def test_a_first_version_has_nothing_to_compare_with() -> None:
    assert judge(of_hundred(100), {}) == Verdict(None, None)


def test_the_second_small_step_down_is_refused_by_the_first_reference() -> None:
    references = {"r0001h01": of_hundred(5), "r0001": of_hundred(0)}
    verdict = judge(of_hundred(10), references)
    assert decided(verdict) == ("r0001", 10, 0)
    assert verdict.refused is not None


def test_without_a_refusal_the_comparison_with_the_version_in_service_is_reported() -> None:
    references = {"r0001h01": of_hundred(2), "r0001": of_hundred(0)}
    assert decided(judge(of_hundred(3), references)) == ("r0001h01", 1, 0)


def test_fewer_than_a_hundred_images_refuse_nothing_and_say_so() -> None:
    verdict = judge(right("-" * 99), {"r0001": right("+" * 99)})
    assert verdict.refused is None
    assert verdict.gate is not None
    assert verdict.gate.note.startswith("99 validation images are too few")


def test_annotators_labels_are_judged_from_thirty_images_on() -> None:
    few = judge(right("-" * 29), {"r0001": right("+" * 29)}, n_wanted=200)
    assert few.refused is None
    assert few.gate is not None
    assert few.gate.note == "not judged yet (29 of 200 validation images labeled)"
    enough = judge(right("-" * 6 + "+" * 24), {"r0001": right("+" * 30)}, n_wanted=200)
    assert enough.refused is not None
    assert "80.0% against 100.0%" in enough.refused


def test_without_any_label_of_annotators_nothing_is_judged_yet() -> None:
    no_image = np.zeros(0, np.bool_)
    none = judge(no_image, {"r0001": no_image}, n_wanted=200)
    assert none.refused is None
    assert none.gate is not None
    assert none.gate.note == "not judged yet (0 of 200 validation images labeled)"
