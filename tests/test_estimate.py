"""Estimate: digits match the interval, nothing is NaN, nothing is missing without a reason."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, gain_in_words, not_estimable, printed, printed_decimals, printed_p


def make(value, low, high, **more):
    return Estimate("auroc", value, low, high, 10, "patch", "test", **more)


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((0.832, 0.79, 0.87), "0.83 (0.79–0.87)"),
        ((0.75, 0.5, 1.0), "0.75 (0.50–1.00)"),
        ((0.9425, 0.493, 0.9997), "0.94 (0.49–0.9997)"),
        ((0.99999, 0.00001, 0.99999), ">0.9999 (<0.0001 to >0.9999)"),
        ((0.9991, 0.9975, 0.99999), "0.9991 (0.9975 to >0.9999)"),
        ((-0.025, -0.046, -0.003), "−0.025 (−0.046 to −0.003)"),
        ((-0.2, -0.4, -0.003), "−0.20 (−0.40 to −0.003)"),
        ((27.31, 26.1, 28.4), "27.3 (26.1–28.4)"),
        ((0.9025, 0.9, 0.905), "0.902 (0.900–0.905)"),
        ((13.6, 9.0, 18.0), "14 (9–18)"),
        ((-0.04, -0.1, 0.03), "−0.04 (−0.10 to 0.03)"),
        ((1.0, 1.0, 1.0), "1.00 (1.00–1.00)"),
    ],
)
def test_printed_digits_match_the_width(numbers, text):
    assert str(make(*numbers)) == text


def test_an_auroc_near_one_has_three_decimals_and_a_share_its_count():
    assert printed(0.95, 0.89, 0.99, name="auroc") == "0.950 (0.890–0.990)"
    assert printed(0.94, 0.89, 0.98, name="auroc") == "0.94 (0.89–0.98)"
    assert printed(0.95, 0.86, 0.98, name="sensitivity", n=60, counted=57) == "0.95 (0.86–0.98), 57 of 60"
    assert printed(0.5, name="accuracy", n=24000, counted=12000, note="one patient").endswith(
        "12\u202f000 of 24\u202f000"
    )


def test_the_first_interval_says_what_it_is():
    found = make(0.83, 0.79, 0.87)
    assert (f"{found}", f"{found:ci}") == ("0.83 (0.79–0.87)", "0.83 (95 % CI 0.79–0.87)")
    assert "97.5 % CI" in f"{make(0.83, 0.79, 0.87, level=0.975):ci}"
    with pytest.raises(MedcoreError, match="format 'x'"):
        f"{found:x}"


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1))
def test_only_an_exact_bound_is_printed_as_one(value, low, width):
    for number in (value, low, low + width):
        text = printed(number, low, low + width).split(" (")[0].replace("−", "-")
        if text.startswith((">", "<")):
            continue
        assert (abs(float(text)) in (0, 1)) == (abs(number) < 1e-12 or abs(number) > 1 - 1e-12) or abs(number) > 1


@pytest.mark.parametrize(
    "p, text", [(2e-5, "P < .001"), (0.00399, "P = .004"), (0.0312, "P = .03"), (0.5, "P = .50"), (0.999, "P > .99")]
)
def test_p_values(p, text):
    assert printed_p(p) == text


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
