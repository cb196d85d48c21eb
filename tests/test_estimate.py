"""Estimate: digits match the interval, nothing is NaN, nothing is missing without a reason."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, gain_in_words, not_estimable, printed_decimals


def make(value, low, high, **more):
    return Estimate("auroc", value, low, high, 10, "patch", "test", **more)


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((0.832, 0.79, 0.87), "0.83 (0.79–0.87)"),
        ((0.75, 0.5, 1.0), "0.8 (0.5–1.0)"),
        ((0.9025, 0.9, 0.905), "0.902 (0.900–0.905)"),
        ((13.6, 9.0, 18.0), "14 (9–18)"),
        ((-0.04, -0.1, 0.03), "−0.04 (−0.10 to 0.03)"),
        ((1.0, 1.0, 1.0), "1.00 (1.00–1.00)"),
    ],
)
def test_printed_digits_match_the_width(numbers, text):
    assert str(make(*numbers)) == text


@given(st.floats(1e-5, 1e3), st.floats(0, 1))
def test_the_last_digit_is_never_coarser_than_a_fifth_of_the_width(width, low):
    step = 10.0 ** -printed_decimals(low, low + width)
    assert step <= max(width / 5 * (1 + 1e-6), 1e-6) or step == 1


def test_missing_values_say_why():
    assert str(not_estimable("auroc", "one class", n=3, unit="patch", split="val")) == "not estimable: one class"
    assert str(not_estimable("auroc", "one patient", n=3, unit="patch", split="val", value=0.5)) == (
        "0.50 (no interval: one patient)"
    )
    with pytest.raises(MedcoreError, match="say why"):
        make(None, None, None)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_is_refused(wrong):
    with pytest.raises(MedcoreError, match="low is"):
        make(0.5, wrong, 0.6)


def test_as_plain_json_and_back():
    estimate = make(0.5, 0.4, 0.6, method="Wilson")
    assert Estimate(**json.loads(json.dumps(estimate.as_dict()))) == estimate


def test_an_unknown_unit_is_refused():
    with pytest.raises(MedcoreError, match="unit 'slide'"):
        Estimate("auroc", 0.5, 0.4, 0.6, 10, "slide", "test")


@pytest.mark.parametrize(
    "numbers, words",
    [((0.1, 0.01, 0.2), "a gain"), ((-0.1, -0.2, -0.01), "a loss"), ((0.1, -0.01, 0.2), "includes zero")],
)
def test_the_interval_says_whether_there_is_a_gain(numbers, words):
    assert words in gain_in_words(make(*numbers))
    assert "no interval" in gain_in_words(make(0.1, None, None, note="two patients"))
