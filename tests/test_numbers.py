"""What a reader can save of a figure is what was drawn."""

import csv
import io
import re
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns

from medcore import plots
from medcore.plots.display import bundle_of
from medcore.plots.numbers import HEADER, drawn_numbers
from medcore.reporting.figures import figure_fragment
from medcore.reporting.sanitise import Narrative


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def rows_of(figure: plt.Figure) -> list[list[str]]:
    header, *rows = drawn_numbers(figure)
    assert header == HEADER and {len(row) for row in rows} == {5}
    return rows


def test_lines_points_bars_and_intervals_are_rows() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    left.set_title("curves")
    left.plot([0, 0.5, 1], [0.25, np.nan, 0.123456], label="TUM")
    left.axhline(0.5)  # over the whole width, in no units of x
    left.scatter([2], [3], label="one")
    right.bar(["a", "b"], [4, 0.5])
    right.hlines([1.0], [0.0], [1.0])
    assert rows_of(figure) == [
        ["curves", "TUM", "0", "0.25", ""],
        ["curves", "TUM", "1", "0.1235", ""],
        ["curves", "one", "2", "3", ""],
        ["2", "bars", "a", "4", ""],
        ["2", "bars", "b", "0.5", ""],
        ["2", "interval", "a", "1", ""],
        ["2", "interval", "b", "1", ""],
    ]


def test_cells_of_a_heatmap_carry_their_names() -> None:
    figure, ax = plt.subplots()
    sns.heatmap(np.array([[5.0, 1.0], [0.0, 7.0]]), xticklabels=["x0", "x1"], yticklabels=["y0", "y1"], ax=ax)
    cells = {(row[2], row[3]): row[4] for row in rows_of(figure)}
    assert cells == {("x0", "y0"): "5", ("x1", "y0"): "1", ("x0", "y1"): "0", ("x1", "y1"): "7"}


def test_a_long_series_says_how_many_points_stand_for_it_and_pictures_have_none() -> None:
    figure, ax = plt.subplots()
    ax.plot(np.arange(1000), np.arange(1000), label="long")
    rows = rows_of(figure)
    assert len(rows) == 100 and rows[0][1] == "long (100 of 1000 points)" and rows[-1][2:4] == ["999", "999"]
    for _ in range(20):
        ax.plot(np.arange(100), np.arange(100))
    assert drawn_numbers(figure) == []
    pictures, ax = plt.subplots()
    ax.imshow(np.zeros((4, 4)))
    assert drawn_numbers(pictures) == []


def test_the_numbers_of_an_offered_figure_go_along_with_it() -> None:
    matrix = np.array([[8, 1], [2, 9]])
    _, metadata = bundle_of(
        plots.confusion_heatmap(matrix, classes=["a", "b"], unit="patch"), "Two classes.", "A matrix."
    )
    ((_, facts),) = metadata.items()
    assert facts["numbers"][0] == HEADER and len(facts["numbers"]) == 5


def fragment(numbers: object) -> str:
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    data, metadata = bundle_of(figure, "A line.", "One line.")
    ((mime, facts),) = metadata.items()
    return figure_fragment(data, {mime: facts | {"numbers": numbers}}, Narrative())


def test_a_strangers_numbers_are_text() -> None:
    nasty = ['"><script>alert(1)</script>', "=HYPERLINK(1)", "-2", "é, \n"]
    page = fragment([nasty])
    (address,) = re.findall(r'href="data:text/csv,([^"]*)"', page)
    assert "<script" not in page.replace(address, "")
    assert list(csv.reader(io.StringIO(unquote(address).lstrip("\ufeff")))) == [
        [nasty[0], "'=HYPERLINK(1)", *nasty[2:]]
    ]


@pytest.mark.parametrize("numbers", ["text", [], [1, 2], {"a": 1}, [["1"]] * 6000, None])
def test_what_is_no_table_of_numbers_gives_no_link(numbers: object) -> None:
    assert "text/csv" not in fragment(numbers)
