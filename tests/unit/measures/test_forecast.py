"""Test the forecast on laws whose gain is known, and on noisy curves whose future is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from backend.measures.forecast import CurvePoint, forecast, track_record

SQUARES = (100, 144, 196, 256, 324, 400)  # label counts with whole roots, 10 to 20


def point(labels: int, accuracy: float, images: int) -> CurvePoint:
    """Make a version with the three numbers that a forecast uses."""
    return CurvePoint("r0001", "", labels, accuracy, accuracy, accuracy, images)


def curve(labels: Sequence[int], accuracy: Sequence[float], images: int = 1000) -> list[CurvePoint]:
    return [point(n, a, images) for n, a in zip(labels, accuracy, strict=True)]


def exact(
    law: Callable[[int], float], labels: Sequence[int], images: int = 10_000
) -> list[CurvePoint]:
    return curve(labels, [law(n) for n in labels], images)


def root_law(labels: int) -> float:
    return 0.8 - 0.5 * labels**-0.5


def noisy(seed: int, images: int = 500) -> list[CurvePoint]:
    """Make 12 versions on the same images, where only images near the limit change sides.

    A version is right about an image if its difficulty, plus a little noise in every training, is
    below 0.75 - 2 / root of labels.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.random(images)
    labels = range(100, 700, 50)
    right = [difficulty + rng.normal(0, 0.03, images) < 0.75 - 2 * n**-0.5 for n in labels]
    return curve(labels, [float(r.mean()) for r in right], images)


def test_a_curve_without_noise_forecasts_the_gain_of_its_law() -> None:
    found = forecast(exact(root_law, SQUARES, images=10**7), 1200)
    assert found is not None
    assert found.more_labels == 1200
    assert found.gain == pytest.approx(0.5 / 20 - 0.5 / 40, abs=1e-3)  # of 400 and of 1,600 labels
    assert found.low < 0.0125 < found.high


@pytest.mark.parametrize("exponent", [0.2, 0.42, 0.8, 1.2])
def test_an_exponent_between_those_tried_is_covered_by_their_mean(exponent: float) -> None:
    def law(labels: int) -> float:
        return 0.9 - 0.4 * (labels / 100) ** -exponent

    found = forecast(exact(law, SQUARES), 100)
    gain = law(500) - law(400)
    assert found is not None
    assert found.gain == pytest.approx(gain, rel=0.15)
    assert found.low < gain < found.high


def test_a_flat_curve_forecasts_no_gain_and_an_interval_around_it() -> None:
    found = forecast(curve(SQUARES, [0.7] * 6), 100)
    assert found is not None
    assert found.gain == pytest.approx(0, abs=1e-9)
    assert found.low == pytest.approx(-found.high)
    # Narrower than two independent measurements: 1.645 * sqrt(2 * 0.7 * 0.3 / 1000) = 0.034.
    assert 0.005 < found.high < 0.034


def test_three_label_counts_are_needed_and_a_retrain_adds_none() -> None:
    assert forecast([], 100) is None
    assert forecast(curve([100, 200], [0.5, 0.6]), 100) is None
    assert forecast(curve([100, 200, 200], [0.5, 0.6, 0.61]), 100) is None
    assert forecast(curve([100, 200, 300], [0.5, 0.6, 0.65]), 100) is not None


def test_a_retrain_with_the_same_labels_reveals_the_scatter() -> None:
    once = forecast(curve([100, 200, 300, 400], [0.5, 0.6, 0.65, 0.68]), 100)
    twice = forecast(curve([100, 200, 300, 300, 400], [0.5, 0.6, 0.65, 0.59, 0.68]), 100)
    assert once is not None
    assert twice is not None
    assert twice.high - twice.low > once.high - once.low


def test_a_fall_at_the_end_widens_the_interval_but_does_not_continue() -> None:
    rising = exact(root_law, SQUARES)
    fallen = [*rising[:-1], point(400, 0.7, 10_000)]  # 0.775 expected
    before, after = forecast(rising, 100), forecast(fallen, 100)
    assert before is not None
    assert after is not None
    assert after.high - after.low > 3 * (before.high - before.low)
    assert after.gain > 0


def test_a_curve_that_only_fell_is_not_forecast_to_fall_further() -> None:
    found = forecast(curve([100, 200, 300, 400], [0.7, 0.68, 0.66, 0.64]), 100)
    assert found is not None
    assert found.low < 0 <= found.gain


def test_the_first_point_weighs_less_than_a_later_one() -> None:
    def gain_without(position: int) -> float:
        accuracy = [root_law(n) for n in SQUARES]
        accuracy[position] -= 0.01
        found = forecast(curve(SQUARES, accuracy), 100)
        assert found is not None
        return found.gain

    undisturbed = forecast(exact(root_law, SQUARES, 1000), 100)
    assert undisturbed is not None
    late = abs(gain_without(-2) - undisturbed.gain)
    assert abs(gain_without(0) - undisturbed.gain) < late


def test_the_interval_grows_with_the_distance_and_shrinks_with_more_images() -> None:
    def width(more_labels: int, images: int) -> float:
        found = forecast(exact(root_law, SQUARES, images), more_labels)
        assert found is not None
        return found.high - found.low

    assert width(100, 1000) < width(500, 1000)
    assert width(100, 4000) == pytest.approx(width(100, 1000) / 2, rel=0.05)


def test_a_short_curve_has_a_wider_interval_than_a_long_one() -> None:
    short = forecast(exact(root_law, SQUARES[-3:], 1000), 500)
    long = forecast(exact(root_law, range(40, 401, 40), 1000), 500)
    assert short is not None
    assert long is not None
    assert short.high - short.low > 2 * (long.high - long.low)


def test_no_forecast_exceeds_an_accuracy_of_one() -> None:
    steep = forecast(curve([100, 200, 300], [0.5, 0.8, 0.99]), 1000)
    perfect = forecast(curve([100, 200, 300], [1.0, 1.0, 1.0]), 1000)
    assert steep is not None
    assert perfect is not None
    assert steep.gain < 0.0101
    assert steep.low < 0.005  # the law far exceeds 1, but the interval stays wide
    assert steep.high == pytest.approx(0.01)
    assert perfect.low < 0.0 == perfect.high
    assert perfect.gain == pytest.approx(0, abs=1e-9)


def test_a_law_that_ends_above_one_gets_little_weight() -> None:
    def law(labels: int) -> float:
        return 0.95 - 0.25 * (labels / 30) ** -1.4

    found = forecast(exact(law, range(30, 130, 20), 500), 120)
    assert found is not None
    # A straight line in log labels through the last two, 0.896 and 0.909, would gain 0.048.
    assert found.gain == pytest.approx(law(230) - law(110), abs=0.012)


def test_the_same_curve_gives_the_same_forecast() -> None:
    assert forecast(noisy(0), 50) == forecast(noisy(0), 50)


def test_the_interval_holds_most_gains_and_is_narrow() -> None:
    curves = [noisy(seed) for seed in range(30)]
    records = [track_record(points) for points in curves]
    assert {record.forecasts for record in records} == {9}
    assert 0.85 < sum(record.inside for record in records) / 270 < 0.99

    widths = []
    for points in curves:
        found = forecast(points, 50)
        assert found is not None
        widths.append(found.high - found.low)
    independent = 2 * 1.645 * np.sqrt(2 * 0.67 * 0.33 / 500)
    assert np.mean(widths) < independent / 2


def test_the_interval_holds_most_gains_five_steps_ahead() -> None:
    def is_inside(points: list[CurvePoint], known: int) -> bool:
        now, then = points[known - 1], points[known + 4]
        found = forecast(points[:known], then.labels - now.labels)
        assert found is not None
        return found.low <= then.measured - now.measured <= found.high

    inside = [is_inside(noisy(seed), known) for seed in range(40) for known in (3, 5, 7)]
    assert np.mean(inside) > 0.85


def test_the_track_record_compares_each_forecast_with_the_next_version() -> None:
    points = curve([100, 200, 300, 400, 500], [0.5, 0.6, 0.65, 0.68, 0.4])
    first, second = forecast(points[:3], 100), forecast(points[:4], 100)
    assert first is not None
    assert second is not None
    record = track_record(points)
    assert (record.forecasts, record.inside) == (2, 1)  # the last version falls by 28 points
    errors = abs(first.gain - 0.03), abs(second.gain + 0.28)
    assert record.mean_error == pytest.approx(sum(errors) / 2)


def test_the_track_record_leaves_out_retrains_and_short_curves() -> None:
    assert track_record([]).forecasts == 0
    short = track_record(curve([100, 200, 300, 300, 250], [0.5, 0.6, 0.65, 0.66, 0.64]))
    assert (short.forecasts, short.inside, short.mean_error) == (0, 0, 0.0)
