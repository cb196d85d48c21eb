"""Figures with controls: they follow their sliders in JupyterLab, and are ordinary figures in a report."""

import html
import re
from functools import partial

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from sklearn.metrics import confusion_matrix

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores
from medcore.plots import Choice, Slider, explore, interactive, maps
from medcore.plots import display as display_module
from medcore.plots.confusion import operating_point, present
from medcore.plots.embedding import latent_step
from medcore.plots.segmentation import mask_overlays
from medcore.reporting.report import report_page

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 2, 80)
SCORES = Scores(TRUTH, TRUTH + RNG.normal(0, 0.8, 80), np.arange(80).astype(str), np.full(80, "val"), ("well", "ill"))
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
MASK = (np.add.outer(np.arange(16), np.arange(16)) > 15).astype(int)
WALK = RNG.random((2, 5, 16, 16, 3))

# name -> (function of the controls, controls, other values)
FIGURES = {
    "operating point": (partial(operating_point, SCORES), {"threshold": Slider(-2, 3, 0.5)}, {"threshold": 1.2}),
    "latent walk": (
        partial(latent_step, WALK, dimensions=[7, 3], values=[-2, -1, 0, 1, 2]),
        {"dimension": Choice([7, 3]), "value": Slider(-2, 2, 1, 0.5)},
        {"dimension": 3, "value": -2.0},
    ),
    "error map": (
        partial(maps.errors_above, IMAGES, IMAGES[::-1]),
        {"threshold": Slider(0, 1, 0.2)},
        {"threshold": 0.5},
    ),
    "overlay": (
        partial(mask_overlays, IMAGES[0], {"truth": MASK, "said": 1 - MASK}, classes=["rest", "gland"]),
        {"opacity": Slider(0, 1, 0.35)},
        {"opacity": 0.9},
    ),
}
every_figure = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict]]:
    """What is displayed in a person's own kernel."""
    found: list[tuple[dict, dict]] = []
    for module in (display_module, interactive):
        monkeypatch.setattr(module, "front_end", lambda: lambda data, metadata, raw: found.append((data, metadata)))
    monkeypatch.delenv(interactive.STILL, raising=False)
    return found


@every_figure
def test_the_figure_follows_its_controls_and_equals_the_one_drawn_directly(name: str) -> None:
    draw, controls, others = FIGURES[name]
    box = interactive.panel(draw, "What it shows.", controls)
    *handles, picture = box.children
    before = picture.value
    assert before == interactive.image_tag(
        draw(**{key: interactive.start_of(c) for key, c in controls.items()}), "What it shows."
    )
    for handle in handles:
        handle.value = others[handle.description.replace(" ", "_")]
    assert picture.value == interactive.image_tag(draw(**others), "What it shows.") != before
    assert 'alt="What it shows."' in picture.value and not plt.get_fignums()


@every_figure
def test_a_run_for_a_report_shows_the_still_figure_and_no_control(
    name: str, sent: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, controls, _ = FIGURES[name]
    monkeypatch.setenv(interactive.STILL, "somewhere")
    explore(draw, alt="What it shows.", caption="On 80 cases.", **controls)
    expected, facts = display_module.bundle_of(
        draw(**{k: interactive.start_of(c) for k, c in controls.items()}), "What it shows.", "On 80 cases."
    )
    assert sent == [(expected, facts)] and "widget" not in str(list(expected))


@pytest.mark.parametrize("still", [True, False])
def test_a_caption_stands_below_the_figure_and_travels_into_the_report(
    still: bool, sent: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, controls, _ = FIGURES["operating point"]
    if still:
        monkeypatch.setenv(interactive.STILL, "somewhere")
    explore(draw, alt="What it shows.", caption="80 cases,\n  <b>validation</b>.", **controls)
    (data, metadata), *captions = sent
    output = new_output("display_data", data=data, metadata=metadata)
    page = report_page(nbformat.from_dict(new_notebook(cells=[new_code_cell("explore(…)", outputs=[output])])), None)
    assert "<b>Figure 1.</b> 80 cases, &lt;b&gt;validation&lt;/b&gt;." in page
    text = "80 cases, <b>validation</b>."
    below = {"text/html": f"<em>{html.escape(text)}</em>", "text/plain": text}
    assert captions == ([] if still else [(below, {})])  # who reads the notebook itself reads it there


def test_without_ipywidgets_the_still_figure_is_shown(sent: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive.importlib.util, "find_spec", lambda name: None)
    draw, controls, _ = FIGURES["operating point"]
    explore(draw, alt="What it shows.", caption="On 80 cases.", **controls)
    assert [set(data) for data, _ in sent] == [{"image/svg+xml", "text/plain"}, {"text/html", "text/plain"}]


def test_a_saved_notebook_keeps_the_still_figure_beside_the_control(sent: list) -> None:
    draw, controls, _ = FIGURES["operating point"]
    explore(draw, alt="ROC curve & point", caption="On 80 cases.", **controls)
    (data, metadata), *captions = sent
    assert "application/vnd.jupyter.widget-view+json" in data and "<svg" in data["image/svg+xml"]
    output = new_output("display_data", data=data, metadata=metadata)
    state = {"application/vnd.jupyter.widget-state+json": {"state": {"1": {"model_name": "FloatSliderModel"}}}}
    notebook = new_notebook(cells=[new_code_cell("explore(…)", outputs=[output])], metadata={"widgets": state})
    page = report_page(nbformat.from_dict(notebook), None)
    assert re.search(r'<img class="drawn" src="data:image/svg\+xml,[^"]*" alt="ROC curve &amp; point"', page)
    for leftover in ("<script", "FloatSlider", "widget-state", "widget-view", "interactive control"):
        assert leftover not in page, leftover


def test_the_description_cannot_leave_its_attribute() -> None:
    draw = FIGURES["operating point"][0]
    hostile = "\"><script>alert(1)</script><img alt='"
    tag = interactive.image_tag(draw(threshold=0.5), hostile)
    assert tag.count("<") == 1 and html.escape(hostile) in tag


@pytest.mark.parametrize("threshold", [-9.0, 0.3, 0.99, 9.0])
def test_the_point_and_the_counts_are_those_of_the_threshold(threshold: float) -> None:
    left, right = operating_point(SCORES, threshold=threshold)
    expected = confusion_matrix(TRUTH, SCORES.score >= threshold, labels=[0, 1])
    point = [line.get_xydata()[0] for line in left.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(point, [expected[:, 1] / expected.sum(1)])
    texts = [text.get_text().split("\n")[0] for text in right.texts]
    assert all(f"{number:,}" in texts for number in expected.ravel() if number)


def test_one_of_several_classes_is_set_against_the_rest() -> None:
    many = Scores(np.arange(90) % 3, RNG.random((90, 3)), np.arange(90).astype(str), np.full(90, "val"), tuple("abc"))
    left, _ = operating_point(many, threshold=0.4, positive="b")
    point = next(line.get_xydata()[0] for line in left.lines if line.get_marker() == "o")
    called = many.score[:, 1] >= 0.4
    np.testing.assert_allclose(point, (called[many.truth != 1].mean(), called[many.truth == 1].mean()))
    assert present(many) == ["a", "b", "c"]
    assert present(many.select(many.truth != 1)) == ["a", "c"] and present(many.select(many.truth == 1)) == []
    for wrong in (None, "d"):
        with pytest.raises(MedcoreError, match="must be one of"):
            operating_point(many, threshold=0.4, positive=wrong)


def test_marked_pixels_are_those_above_the_threshold() -> None:
    painted = IMAGES.copy()
    painted[0, :4] = np.where(painted[0, :4] > 127, painted[0, :4] - 100, painted[0, :4] + 100)
    ax = maps.errors_above(IMAGES, painted, threshold=0.3)
    shares = [text.get_text() for text in ax.texts if text.get_text().endswith("%")]
    assert shares == ["25.0%", "0.0%", "0.0%"]


def test_the_latent_step_compares_with_the_mean_code() -> None:
    ax = latent_step(WALK, dimensions=[7, 3], values=[-2, -1, 0, 1, 2], dimension=3, value=0.1)
    assert "change, 0.000 on average" in [text.get_text() for text in ax.texts]
    with pytest.raises(MedcoreError, match="none of"):
        latent_step(WALK, dimensions=[7, 3], values=[-2, -1, 0, 1, 2], dimension=5, value=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Slider(0, 1, 2),
        lambda: Slider(1, 1, 1),
        lambda: Choice([]),
        lambda: Choice(["a"], "b"),
        lambda: explore(plt.figure, alt="a figure that never changes", caption="On 80 cases."),
        lambda: explore(FIGURES["overlay"][0], alt=" Figure. ", caption="On 80 cases.", opacity=Slider(0, 1, 0.5)),
    ],
)
def test_what_cannot_be_controlled_is_refused(wrong) -> None:
    with pytest.raises(MedcoreError):
        wrong()
