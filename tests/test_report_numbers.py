"""How numbers, intervals and axes are written."""

from __future__ import annotations

import pytest

from simulator.report import numbers
from simulator.report.bars import Axis
from simulator.result import Number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1760, "1,760"),
        (1764.9, "1,760"),
        (21.6, "21.6"),
        (4, "4.00"),
        (0.83, "0.830"),
        (9.999, "10.0"),
        (999.6, "1,000"),
        (-21.25, "−21.2"),
        (3.1e-5, "3.10e−5"),
        (0, "0"),
        (float("inf"), "unbounded"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert numbers.significant(value) == text


@pytest.mark.parametrize(
    ("scale", "value", "text"),
    [
        (numbers.seconds, 2.96, "2.96 s"),
        (numbers.seconds, 0.0996, "99.6 ms"),
        (numbers.seconds, 0.99996, "1.00 s"),
        (numbers.seconds, 5e4, "50,000 s"),
        (numbers.bytes_, 30.1e9, "30.1 GB"),
        (numbers.bytes_, 0.0, "0 B"),
        (numbers.joules, 198e3, "198 kJ"),
        (numbers.watt_hours, 105e6 * 3600, "105 MWh"),
        (numbers.tokens_per_second, 354e3, "354 k tokens/s"),
        (numbers.tokens_per_second, 48.1, "48.1 tokens/s"),
        (numbers.kilograms, 38_900, "38.9 t CO₂e"),
        (numbers.dollars, 2.95, "$2.95"),
        (numbers.dollars, 296_412, "$296,000"),
        (numbers.dollars, 12.34e6, "$12.3 million"),
        (numbers.dollars, 4.2e9, "$4.20 billion"),
        (numbers.days, 65.4, "65.4 days"),
        (numbers.days, 0.25, "6.00 hours"),
        (numbers.counts, 46.7e9, "46.7 B"),
        (numbers.percent, 0.445, "44.5 %"),
        (numbers.wholes, 1158.0, "1,158"),
    ],
)
def test_one_value_in_its_unit(scale: object, value: float, text: str) -> None:
    assert scale([value]).text(value).replace("\u00a0", " ") == text  # type: ignore[operator]


def test_a_unit_is_kept_from_its_number_by_a_space_that_does_not_break() -> None:
    assert numbers.seconds([2.96]).text(2.96) == "2.96\u00a0s"
    assert numbers.round_share(0.5) == "50\u00a0%"


def test_a_column_has_one_prefix_taken_from_its_middle() -> None:
    scale = numbers.seconds([1.76, 0.233, 0.0216])
    assert [scale.bare(v) for v in (1.76, 0.233, 0.0216)] == ["1,760", "233", "21.6"]


def test_intervals_carry_the_currency_twice_and_the_unit_once() -> None:
    assert numbers.seconds([2.96]).range(2.73, 3.24) == "2.73 – 3.24\u00a0s"
    assert numbers.dollars([296_000]).range(273_123, 324_111) == "$273,000 – $324,000"
    assert numbers.seconds([1]).interval(Number.exact(1)) == ""


@pytest.mark.parametrize(
    ("value", "in_row", "in_sentence"),
    [
        (0.594, "59.4 %", "59 %"),
        (0.0, "0 %", "0 %"),
        (0.0001, "<0.1 %", "less than 1 %"),
        (0.057, "5.7 %", "6 %"),
    ],
)
def test_shares(value: float, in_row: str, in_sentence: str) -> None:
    assert numbers.share(value).replace("\u00a0", " ") == in_row
    assert numbers.round_share(value).replace("\u00a0", " ") == in_sentence


def test_changes_carry_a_sign_unless_they_are_nothing() -> None:
    assert numbers.signed_share(-0.2123) == "−21.2\u00a0%"
    assert numbers.signed_share(0.046) == "+4.6\u00a0%"
    assert numbers.signed_share(-1e-6) == "0\u00a0%"
    assert numbers.signed(numbers.dollars([63_000]), -63_000) == "−$63,000"
    assert numbers.signed(numbers.days([0]), 0) == "0\u00a0days"


@pytest.mark.parametrize(
    ("days", "words"), [(65.4, "65 days"), (1.3, "31 hours"), (0.05, "72 minutes"), (0.0001, "1 minute")]
)
def test_lengths_of_time_in_words(days: float, words: str) -> None:
    assert numbers.about_days(days).replace("\u00a0", " ") == words


def test_large_counts_in_words() -> None:
    assert numbers.in_words(2e12) == "2\u00a0trillion"
    assert numbers.in_words(1.56e12) == "1.56\u00a0trillion"
    assert numbers.in_words(4096) == "4,096"
    assert numbers.short_count(300e9) == "300\u00a0B"


def test_lists() -> None:
    assert numbers.listing(["a"]) == "a"
    assert numbers.listing(["a", "b", "c"]) == "a, b and c"


def test_plus_minus_is_half_the_interval() -> None:
    assert numbers.plus_minus(Number(value=100, low=80, high=140, basis="measured")) == "±30\u00a0%"


def test_an_axis_has_round_ticks_and_clips_nothing() -> None:
    axis = Axis.covering([1.9], numbers.seconds([1.9]))
    assert [label for _, label in axis.ticks()] == ["0\u00a0s", "0.5\u00a0s", "1\u00a0s", "1.5\u00a0s", "2\u00a0s"]
    assert axis.at(0) == 0
    assert axis.at(1.0) == pytest.approx(50)


def test_an_axis_of_changes_marks_zero() -> None:
    axis = Axis.covering([-0.29, 0.08], numbers.percent([]), signed=True)
    assert [label.replace("\u00a0", " ") for _, label in axis.ticks()] == ["−30 %", "−20 %", "−10 %", "0 %", "+10 %"]
    assert axis.at(0) == pytest.approx(75)


def test_an_axis_of_nothing_still_has_a_length() -> None:
    assert Axis.covering([0.0], numbers.seconds([])).at(0) == 0
