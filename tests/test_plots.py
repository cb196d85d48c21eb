"""Figures: the data they show is the data they got, nothing overlaps or is cut, and show() keeps its promises."""

from __future__ import annotations

import builtins
import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

import medcore.plots.display as display_module
from medcore import plots
from medcore.data.audit.audit import audit
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits
from medcore.errors import MedcoreError
from medcore.evaluation.curves import decision_curve
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import risk_coverage
from medcore.metrics.calibration import calibration_error
from medcore.plots import (
    architecture,
    calibration,
    confusion,
    curves,
    data,
    diagnosis,
    distributions,
    embedding,
    images,
    intervals,
    maps,
    segmentation,
    show,
    style,
)

CLASSES = ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
RNG = np.random.default_rng(0)


def toy_set(count: int = 90, *, classes=CLASSES, channels: int = 3, side: int = 24) -> PatchSet:
    rng = np.random.default_rng(1)
    table = {"label": np.arange(count) % len(classes), "patient": [f"P{n % 14}" for n in range(count)]}
    table["source"] = [f"{n}.png" for n in range(count)]
    card = Card(name="toy", classes=list(classes), pixel_size_um=0.5)
    pixels = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return assign_splits(PatchSet.from_arrays(pixels, pd.DataFrame(table), card))


def estimate(name="auroc", value=0.8, low=0.7, high=0.9, **more) -> Estimate:
    return Estimate(name, value, low, high, **{"n": 120, "unit": "patient", "split": "test", "note": "", **more})


# --- the palette -------------------------------------------------------------------------------------------------

CONFUSION = {  # Machado et al. 2009, severity 1.0
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    channels = np.array(to_rgb(colour))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ light
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1.0, 1.089]]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("viewer", CONFUSION)
def test_palette_stays_apart_for_every_viewer(viewer):
    seen = [lab(np.clip(np.array(CONFUSION[viewer]) @ linear(colour), 0, 1)) for colour in style.PALETTE]
    closest = min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2))
    assert closest > 10  # a just noticeable difference is about 2


def contrast(colour: str, other: str = "white") -> float:
    light, dark = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (colour, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_in_class_colours_is_readable_on_white():
    assert min(contrast(style.line_colour(colour)) for colour in style.PALETTE) > 3


def test_classes_keep_their_colour_and_many_classes_get_one_each():
    assert style.class_colours(CLASSES)["TUM"] == style.PALETTE[8]
    many = style.class_colours([f"c{n}" for n in range(30)])
    assert len(set(many.values())) == 30


def test_style_file_palette_is_the_palette():
    cycle = [entry["color"] for entry in style.house_style()["axes.prop_cycle"]]
    assert [f"#{colour.lstrip('#').upper()}" for colour in cycle] == list(style.PALETTE)


def test_spread_keeps_order_and_distance():
    placed = style.spread_apart([0.5, 0.5, 0.51, 0.0], 0.1)
    assert np.allclose(sorted(placed), sorted([0.4033333, 0.5033333, 0.6033333, 0.0]))
    assert placed[3] == 0.0 and placed[0] < placed[1] < placed[2]
    assert style.spread_apart([], 0.1).size == 0


def test_scale_bar_has_its_true_length_and_none_without_a_pixel_size():
    ax = images.image_grid(np.zeros((1, 100, 100, 3)), pixel_size_um=0.5)
    (bar,) = [patch for patch in ax.patches if patch.get_facecolor()[:3] == (1, 1, 1)]
    assert bar.get_width() == pytest.approx(10 / 0.5)  # 10 µm is the roundest length up to 15 µm
    assert "10 µm" in [text.get_text() for text in ax.texts]
    assert not images.image_grid(np.zeros((1, 100, 100, 3))).patches


@pytest.mark.parametrize(("length", "expected"), [(15, 10), (50, 50), (0.7, 0.5), (2400, 2000)])
def test_round_length(length, expected):
    assert style.round_length(length) == pytest.approx(expected)


# --- show ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch):
    """What was displayed in a run for a report, as (bundle, metadata)."""
    shown = []

    def display(bundle, *, metadata, raw):
        assert raw
        shown.append((bundle, metadata))

    monkeypatch.setattr(display_module, "front_end", lambda: display)
    monkeypatch.setenv(display_module.STILL, "somewhere")
    return shown


@pytest.mark.parametrize("words", [{"alt": "A line."}, {"alt": "A line.", "caption": " "}, {"caption": "A line."}])
def test_show_demands_a_description_and_a_caption(words):
    with pytest.raises((MedcoreError, TypeError), match="alt|caption"):
        show(plt.figure(), **words)


def test_a_plot_says_in_the_caption_what_its_bars_and_lines_are(notebook):
    found = [Estimate("auroc", 0.8, 0.7, 0.9, 40, "patient", "test", method=m) for m in ("DeLong", "DeLong", "exact")]
    show(intervals.forest(found), alt="Three values.", caption="AUROC of three methods.")
    ((_, metadata),) = notebook
    caption = next(iter(metadata.values()))["caption"]
    assert caption == "AUROC of three methods. Dotted: chance. Dots: values; lines: 95 % CI (DeLong)."


@pytest.mark.parametrize("alt", ["", "   ", "figure", "Image.", "No description has been provided for this image"])
def test_show_refuses_an_empty_alt_text(alt):
    with pytest.raises(MedcoreError, match="alt"):
        show(plt.figure(), alt=alt, caption="A figure of nothing.")


def test_show_sends_alt_text_with_the_picture_and_closes_the_figure(notebook):
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    show(ax, alt="A line that\n rises.", caption="What it is.")
    ((bundle, metadata),) = notebook
    numbers = [["panel", "series", "x", "y", "value"], ["", "line", "0", "1", ""], ["", "line", "1", "2", ""]]
    assert metadata == {"image/svg+xml": {"alt": "A line that rises.", "caption": "What it is.", "numbers": numbers}}
    assert bundle["text/plain"] == "A line that rises." and "<svg" in bundle["image/svg+xml"]
    assert not plt.fignum_exists(figure.number)


def test_large_drawings_and_photographs_become_pictures_of_twice_the_size(notebook):
    import base64
    import io

    from PIL import Image

    _, ax = plt.subplots()
    ax.plot(RNG.random(9000), RNG.random(9000), "o")
    show(ax, alt="many dots", caption="What it is.")
    show(images.image_grid(RNG.random((48, 64, 64, 3))), alt="noise", caption="What it is.")
    (dots, dots_facts), (photo, photo_facts) = notebook
    assert "image/png" in dots and "image/jpeg" in photo
    for bundle, facts, mime in ((dots, dots_facts, "image/png"), (photo, photo_facts, "image/jpeg")):
        size = Image.open(io.BytesIO(base64.b64decode(bundle[mime]))).size
        assert size[0] == pytest.approx(2 * facts[mime]["width"], abs=2)
        assert facts[mime]["alt"]


def test_show_takes_arrays_of_axes_and_subfigures(notebook):
    _, axes = plt.subplots(2, 2)
    show(axes, alt="four empty axes", caption="What it is.")
    figure = plt.figure()
    show(figure.subfigures(1, 2)[0].subplots(), alt="one in a subfigure", caption="What it is.")
    assert len(notebook) == 2 and not plt.get_fignums()
    with pytest.raises(MedcoreError, match="Figure or Axes"):
        show("not a figure", alt="nothing", caption="What it is.")


def test_show_works_without_ipython(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("IPython"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    show(plt.figure(), alt="an empty figure", caption="What it is.")
    assert not plt.get_fignums()


def test_the_figure_is_closed_even_when_drawing_fails(notebook, monkeypatch):
    monkeypatch.setattr(display_module, "encode", lambda figure: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        show(plt.figure(), alt="an empty figure", caption="What it is.")
    assert not plt.get_fignums()


def test_a_real_kernel_carries_the_picture_and_its_alt_text():
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter
    from nbformat.v4 import new_code_cell, new_notebook

    code = (
        "import numpy as np\nfrom medcore.plots import show\nfrom medcore.plots.images import image_grid\n"
        "noise = np.random.default_rng(0).random((40, 64, 64, 3))\n"
        "show(image_grid(noise), alt='forty squares of noise', caption='What it is.')"
    )
    notebook = NotebookClient(new_notebook(cells=[new_code_cell(code)]), kernel_name="python3").execute()
    output, caption = notebook.cells[0].outputs
    assert caption.data["text/html"] == "<em>What it is.</em>"
    assert output.metadata["image/jpeg"]["alt"] == "forty squares of noise"
    assert "data:image/jpeg;base64" in HTMLExporter().from_notebook_node(notebook)[0]


def test_svg_is_the_same_every_time():
    first, second = (display_module.encode(plt.subplots()[1].figure) for _ in range(2))
    assert first == second


# --- every plot draws, inside its figure, without overlapping words ------------------------------------------------


def scores(count: int = 300, classes: int = 9):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), truth] += 2
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probability, rng.integers(0, 30, count).astype(str)


def history() -> pd.DataFrame:
    epoch = np.arange(1, 13)
    return pd.DataFrame(
        {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1.2 / epoch, "val_auroc": 1 - 0.5 / epoch}
    )


def corruptions() -> pd.DataFrame:
    rows = itertools.product(["hue", "blur", "JPEG", "noise"], range(4), ["CNN", "histogram"])
    return pd.DataFrame(
        [dict(corruption=c, severity=s, model=m, value=0.9 - 0.1 * s, low=0.8 - 0.1 * s, high=0.95) for c, s, m in rows]
    )


def small_masks():
    mask = np.zeros((60, 80), int)
    mask[10:40, 10:50] = 1
    mask[:5] = 255
    return RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8), mask, np.roll(mask, 4, axis=1)


TRUTH, PROBABILITY, GROUPS = scores()
CONFIDENCE, CORRECT = PROBABILITY.max(axis=1), PROBABILITY.argmax(axis=1) == TRUTH
PICTURES = RNG.integers(0, 256, (8, 24, 24, 3)).astype(np.uint8)
IMAGE, MASK, PREDICTED = small_masks()
POINTS, LABELS = RNG.normal(size=(200, 2)), RNG.integers(-1, 9, 200)


def two_classes() -> Scores:
    positive = (TRUTH == 8).astype(int)
    return Scores(positive, PROBABILITY[:, 8], GROUPS, ["test"] * len(TRUTH), ("rest", "TUM"))


def copies():
    ps = toy_set(40)
    pixels = ps.take()
    pixels[30], pixels[31] = pixels[2], np.rot90(pixels[3])
    doubled = PatchSet.from_arrays(pixels, ps.table, ps.card)
    return data.copies_found(doubled, audit(doubled, shortcuts=False))


def every_class() -> Scores:
    return Scores(TRUTH, PROBABILITY, GROUPS, ["test"] * len(TRUTH), tuple(CLASSES))


PLOTS = {
    "image_grid": lambda: images.image_grid(PICTURES, titles=[f"case {n}\nx" for n in range(8)], pixel_size_um=0.5),
    "class_examples": lambda: images.class_examples(toy_set()),
    "class_examples_grey": lambda: images.class_examples(toy_set(channels=1)),
    "worst_mistakes": lambda: images.worst_mistakes(
        PICTURES, truth=["ADI"] * 8, predicted=["TUM"] * 8, confidence=[0.9] * 8, classes=CLASSES
    ),
    "processing_steps": lambda: images.processing_steps({"before": PICTURES[:3], "after": PICTURES[:3, ::2, ::2]}),
    "image_pairs": lambda: images.image_pairs(PICTURES, PICTURES, captions=["a pair"] * 8),
    "class_counts": lambda: data.class_counts(toy_set()),
    "images_per_patient": lambda: data.images_per_patient(toy_set()),
    "colour_by_class": lambda: distributions.colour_by_class(toy_set()),
    "colour_by_class_grey": lambda: distributions.colour_by_class(toy_set(channels=1)),
    "stain_by_patient": lambda: distributions.stain_by_patient(toy_set()),
    "score_histograms": lambda: distributions.score_histograms(
        PROBABILITY[:, 0], TRUTH, classes=CLASSES, threshold=0.3, threshold_name="Youden on val"
    ),
    "confusion_heatmap": lambda: confusion.confusion_heatmap(RNG.integers(0, 90, (9, 9)), classes=CLASSES),
    "learning_curves": lambda: curves.learning_curves(history(), best_epoch=9),
    "roc_curves": lambda: curves.roc_curves(PROBABILITY, TRUTH, classes=CLASSES, groups=GROUPS, resamples=20),
    "robustness": lambda: curves.robustness_curves(corruptions(), chance=0.1),
    "risk_coverage": lambda: curves.risk_coverage_curves(
        {name: risk_coverage(every_class(), resamples=20) for name in ("network", "histogram")}
    ),
    "reliability": lambda: calibration.reliability_diagram(CONFIDENCE, CORRECT),
    "before_after": lambda: calibration.calibration_before_after(CONFIDENCE, CONFIDENCE**0.5, CORRECT),
    "decision_curves": lambda: calibration.decision_curves({"model": decision_curve(two_classes(), resamples=20)}),
    "forest": lambda: intervals.forest(
        [estimate(), estimate("accuracy"), estimate("ap", None, None, None, note="one class only")],
        baselines={"majority": [estimate("accuracy", 0.5)], "mean colour": [estimate(value=0.7)]},
    ),
    "copies_found": lambda: copies(),
    "reconstruction_rows": lambda: maps.reconstruction_rows(PICTURES, PICTURES[::-1], titles=["nv 0.1"] * 8),
    "heat_overlays": lambda: maps.heat_overlays(PICTURES, RNG.random((8, 24, 24)), titles=["nv"] * 8),
    "latent_space": lambda: embedding.latent_space(POINTS, labels=LABELS, classes=CLASSES, groups=LABELS.astype(str)),
    "latent_traversal": lambda: embedding.latent_traversal(
        RNG.random((3, 5, 16, 16, 1)), dimensions=["z1", "z2", "z3"], values=[-2, -1, 0, 1, 2]
    ),
    "samples": lambda: embedding.samples_with_neighbours(PICTURES, PICTURES, captions=["d = 0.1"] * 8, columns=4),
    "mask_overlay": lambda: segmentation.mask_overlay(IMAGE, MASK, classes=["background", "gland"]),
    "masked_examples": lambda: segmentation.masked_examples(
        [IMAGE] * 3, [MASK] * 3, classes=["background", "gland"], titles=["a", "b", "c"]
    ),
    "segmentation_rows": lambda: segmentation.segmentation_rows(
        [IMAGE] * 2, [MASK] * 2, [PREDICTED] * 2, classes=["background", "gland"], titles=["a 0.8", "b 0.7"]
    ),
    "dice_per_case": lambda: segmentation.dice_per_case(
        RNG.random(40), groups=[f"P{n % 9}" for n in range(40)], baselines={"all gland": 0.4}
    ),
    "patient_scores": lambda: diagnosis.sorted_patient_scores(
        RNG.random(40), RNG.random(40) > 0.5, names=[f"B22-{n}" for n in range(40)], threshold=0.5
    ),
    "patient_table": lambda: diagnosis.patient_gallery(
        PICTURES[:6].reshape(2, 3, 24, 24, 3), patient=["A", "B"], score=[0.1, 0.9], decision=["neg", "pos"],
        truth=["pos", "pos"], captions=[["0.1", "0.2", "0.3"]] * 2,
    ),
    "fold_results": lambda: diagnosis.fold_results(
        pd.DataFrame({"fold": [1, 2, 3], "auroc": [0.8, 0.9, 0.7], "low": [0.7, 0.8, 0.6], "high": [0.9, 0.95, 0.8]}),
        value="auroc", baselines={"majority": 0.5},
    ),
    "autoencoder": lambda: architecture.autoencoder_diagram([(3, 64), (32, 32), (64, 16)], latent=32),
    "vae": lambda: architecture.autoencoder_diagram([(3, 64), (32, 32), (64, 16)], latent=120, variational=True),
    "unet": lambda: architecture.unet_diagram([(32, 256), (64, 128), (128, 64)], classes=2, deep_supervision=1),
}  # fmt: skip


def undrawn(figure: Figure):
    """Labels of ticks beyond the limits: matplotlib keeps them, but does not draw them."""
    for axis in (axis for ax in figure.findobj(plt.Axes) for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9 or not axis.get_visible() or not axis.axes.axison:
                yield from (tick.label1, tick.label2)


def words(figure: Figure):
    """Every visible text of a figure with its box in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    hidden = {id(text) for text in undrawn(figure)}
    for text in figure.findobj(plt.Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            assert text.get_fontsize() >= 7.9, f"{text.get_text()!r} has {text.get_fontsize()} points"
            yield text.get_text(), text.get_window_extent(renderer)


def unnamed(figure: Figure):
    """Axes with numbers at them and no name: neither one of their own nor one of the figure."""
    shared = {"x": figure.get_supxlabel(), "y": figure.get_supylabel()}
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        labels = [label.get_text().replace("−", "-") for label in axis.get_ticklabels() if label.get_visible()]
        numbers = [text for text in labels if re.fullmatch(r"-?[\d.,]+", text)]
        if axis.axes.axison and len(numbers) > 1 and not axis.get_label_text() and not shared[axis.axis_name]:
            yield f"{axis.axis_name} of {axis.axes.get_title() or axis.axes}"


@pytest.mark.parametrize("name", PLOTS)
def test_no_word_is_cut_or_hidden_by_another_and_the_current_style_stays(name):
    before = dict(plt.rcParams)
    figure = display_module.figure_of(PLOTS[name]())
    assert dict(plt.rcParams) == before and len(plt.get_fignums()) == 1
    width, height = figure.canvas.get_width_height()
    shown = list(words(figure))
    assert not list(unnamed(figure))
    for text, box in shown:
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, f"{text!r} is cut"
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        if name == "latent_space" and one in CLASSES and other in CLASSES:
            continue  # random points have their classes in one place
        assert across <= 2 or along <= 2, f"{one!r} and {other!r} overlap"


def test_every_figure_that_is_offered_is_there():
    assert [name for names in plots.FAMILIES.values() for name in names if not callable(getattr(plots, name))] == []


def test_plots_draw_into_the_axes_they_get():
    _, ax = plt.subplots()
    assert confusion.confusion_heatmap(np.eye(2, dtype=int), classes=["a", "b"], ax=ax) is ax
    assert data.class_counts(toy_set(), ax=plt.subplots()[1]) is not ax
    assert len(plt.get_fignums()) == 2


# --- what is drawn is what was given ---------------------------------------------------------------------------------


def test_learning_curves_show_every_epoch_and_mark_the_kept_one():
    table = history()
    loss, metric = curves.learning_curves(table, best_epoch=9)
    assert metric.get_ylabel() == "AUROC"
    for ax, columns in ((loss, ["train_loss", "val_loss"]), (metric, ["val_auroc"])):
        drawn = [line for line in ax.lines if len(line.get_xdata()) == len(table)]
        assert [line.get_ydata().tolist() for line in drawn] == [table[name].tolist() for name in columns]
        assert "kept: epoch 9" in [text.get_text() for text in ax.texts]


def test_roc_draws_scikit_learns_curve_and_area():
    positive, score = (TRUTH == 3).astype(int), np.round(PROBABILITY[:, 3], 2)  # rounded: with ties
    ax = curves.roc_curves(score, positive, classes=["rest", "LYM"], operating_point=0.3)
    _, curve, point = ax.lines  # the first is the diagonal
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    assert np.allclose(curve.get_xdata(), fpr) and np.allclose(curve.get_ydata(), tpr)
    assert point.get_ydata()[0] == pytest.approx((score >= 0.3)[positive == 1].mean())
    assert f"LYM  {roc_auc_score(positive, score):.2f}" in [text.get_text() for text in ax.texts]


def test_band_is_over_patients_when_they_are_given():
    def width(groups):
        ax = curves.roc_curves(PROBABILITY[:, 0], (TRUTH == 0).astype(int), classes=["rest", "ADI"], groups=groups)
        corners = ax.collections[0].get_paths()[0].vertices
        return np.ptp(corners[np.abs(corners[:, 0] - 0.05) < 1e-6, 1])

    wrong = np.argsort(PROBABILITY[:, 0] * np.where(TRUTH == 0, 1, -1))  # patients who are all easy or all hard
    patients = np.empty(len(TRUTH), int)
    patients[wrong] = np.arange(len(TRUTH)) // 30
    assert width(patients) > width(None) > 0


def test_calibration_error_is_written_for_both_curves():
    ax = PLOTS["before_after"]()
    written = [text.get_text() for text in ax.texts if "calibration error" in text.get_text()]
    assert [text.split(":")[0] for text in written] == ["before", "after"]
    assert written[0].endswith(f"{calibration_error(CONFIDENCE, CORRECT):.3f}")


def test_the_confusion_heatmap_writes_its_counts_and_never_rounds_to_0_or_100():
    ax = confusion.confusion_heatmap(np.array([[999, 1], [0, 5]]), classes=["a", "b"])
    written = [text.get_text() for text in ax.texts]
    assert {"999\n>99 %", "1\n<1 %", "5\n100 %", "·", "n = 1,000"} <= set(written)
    with pytest.raises(MedcoreError, match="2 classes"):
        confusion.confusion_heatmap(np.eye(3), classes=["a", "b"])


@pytest.mark.parametrize("name", ["Ba$$in", "$10 \\alpha_1$", "a_b^c", "$x_{$", "x" * 120])
def test_names_are_drawn_as_text_and_never_as_formulas(name, notebook, recwarn):
    ax = confusion.confusion_heatmap(np.eye(2, dtype=int), classes=[name, "plain"])
    assert name in [label.get_text() for label in ax.get_xticklabels()]
    show(ax, alt="two classes", caption="What it is.")
    assert "svg" in next(iter(notebook[0][0])) and not [w for w in recwarn if "Glyph" in str(w.message)]


def test_names_that_no_font_can_draw_become_numbers_that_the_description_explains(notebook, recwarn, monkeypatch):
    latin = frozenset(range(0x250)) | frozenset(map(ord, "·−"))
    monkeypatch.setattr(display_module, "characters", lambda: latin)
    show(
        confusion.confusion_heatmap(np.eye(2, dtype=int), classes=["良性", "恶性"]),
        alt="two classes",
        caption="What it is.",
    )
    ((bundle, _),) = notebook
    assert "1] = 良性" in bundle["text/plain"] and "2] = 恶性" in bundle["text/plain"]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_class_counts_add_up_to_the_set():
    ps = toy_set()
    ax = data.class_counts(ps)
    assert sum(bar.get_width() for bar in ax.patches) == len(ps)


def test_forest_draws_values_intervals_and_explains_what_is_missing():
    ax = PLOTS["forest"]()
    lines = [line.get_xdata().tolist() for line in ax.lines]
    assert [0.7, 0.9] in lines and [0.5, 0.5] in lines
    written = [text.get_text() for text in ax.texts]
    assert "not estimable: one class only" in written and any("0.80 (0.70–0.90)" in text for text in written)


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("balanced_accuracy", ("majority", "mean colour", "size and brightness", "colour histogram")),
        ("macro_auroc", ("prevalence", "mean grey level", "size and brightness", "grey-level histogram")),
    ],
)
def test_the_key_of_a_forest_with_every_baseline_stays_on_the_page(metric, names):
    ax = intervals.forest([estimate(metric)], baselines={name: [estimate(value=0.5)] for name in names})
    ax.figure.canvas.draw()
    key = ax.get_legend().get_window_extent()
    assert ax.figure.bbox.x0 <= key.x0 and key.x1 <= ax.figure.bbox.x1


def test_captions_with_long_class_names_do_not_run_into_each_other():
    names = ["No_findings", "Pneumonia"]
    mistakes = images.worst_mistakes(
        PICTURES, truth=names[:1] * 8, predicted=names[1:] * 8, confidence=[0.9] * 8, classes=names
    )
    for ax in (mistakes, maps.heat_overlays(PICTURES, RNG.random((8, 24, 24)), titles=names[:1] * 8)):
        ax.figure.canvas.draw()
        boxes = [text.get_window_extent() for text in ax.texts if "findings" in text.get_text()]
        rows = {round(box.y0) for box in boxes}
        assert len(boxes) == 8
        for row in rows:
            beside = sorted((box.x0, box.x1) for box in boxes if round(box.y0) == row)
            assert all(right[0] >= left[1] for left, right in itertools.pairwise(beside))


def test_signed_error_colours_missed_and_added_pixels():
    ax = segmentation.signed_error(IMAGE, MASK, PREDICTED)
    pixels = ax.images[0].get_array()
    missed, added = pixels[20, 12], pixels[20, 52]
    assert missed[0] > missed[1] + 80  # wine red
    assert added[2] > added[0] + 80  # light blue
    words = (segmentation.MISSED, segmentation.EXTRA, segmentation.MISTAKEN, segmentation.FOUND)
    assert not set(words) & set(style.class_colours(["background", "benign", "malignant", "other"]).values())
    assert (pixels[2] == 255).all()  # ignored


def test_mask_of_another_size_is_refused():
    with pytest.raises(MedcoreError, match="differ in size"):
        segmentation.mask_overlay(IMAGE, MASK[:, :50], classes=["a", "b"])


def test_examples_come_from_as_many_patients_as_possible():
    rows, groups = np.arange(100), np.array(["A"] * 97 + ["B", "C", "D"])
    chosen = images.varied_rows(rows, groups, 4, np.random.default_rng(0))
    assert set(groups[chosen]) == {"A", "B", "C", "D"}


@pytest.mark.parametrize("bad", [np.zeros((0, 4, 4, 3)), np.zeros((3, 4, 4, 2)), np.zeros((4, 4))])
def test_wrong_image_shapes_are_named(bad):
    with pytest.raises(MedcoreError, match="shape"):
        images.as_colour(bad)


def test_captions_must_fit():
    with pytest.raises(MedcoreError, match="titles has 2 entries for 8 images"):
        images.image_grid(PICTURES, titles=["a", "b"])


def test_the_intervals_of_folds_lie_inside_the_axis() -> None:
    table = pd.DataFrame({"fold": [1, 2], "n": [9, 9], "auroc": [0.69, 0.71], "low": [0.5, 0.6], "high": [0.8, 0.9]})
    low, high = diagnosis.fold_results(table, value="auroc").get_ylim()
    assert low < 0.5 and high > 0.9


def test_a_forest_of_extremes_is_not_called_one_of_confidence_intervals() -> None:
    ax = intervals.forest([estimate(method="extremes of 5 draws, no confidence interval")])
    (said,) = [text for text in style.notes_of(ax.figure) if text.startswith("Dots")]
    assert said == "Dots: values; lines: extremes of 5 draws, no confidence interval."


def test_a_forest_of_differences_says_so_at_its_axis() -> None:
    ax = intervals.forest([estimate("auroc_difference"), estimate("accuracy_difference")])
    assert ax.get_xlabel() == "difference of the metric"


def test_a_forest_of_findings_shows_where_chance_lies() -> None:
    ax = intervals.forest([estimate("auroc nodule"), estimate("auroc effusion")])
    assert ax.get_xlabel() == "AUROC" and "Dotted: chance." in style.notes_of(ax.figure)


def test_corruptions_carry_their_settings_and_units() -> None:
    table = corruptions().assign(
        setting=lambda rows: rows["severity"].map({0: "none", 1: "0.5", 2: "1.0", 3: "2.5"}), unit="pixels"
    )
    ax = curves.robustness_curves(table)[1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["none", "0.5", "1.0", "2.5"]
    assert ax.get_title(loc="left") == "blur (pixels)"


def test_the_band_of_a_decision_curve_stays_inside_its_axes() -> None:
    found = decision_curve(two_classes(), resamples=20)
    assert calibration.decision_curves({"model": found}).get_ylim()[1] > found.high.max()
