"""The study of slides: maps where tiles lie, answers from slides that were not seen, attention by tissue."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from medcore import plots
from medcore.errors import MedcoreError
from medcore.studies.slides import study as module
from medcore.studies.slides.study import Bags, SlideChoices, SlideStudy

SLIDES = 6


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SlideStudy:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCORE_DATA", str(tmp_path_factory.mktemp("data")))
        return SlideStudy.read("phantom-slides", slides=SLIDES, side=1024, mpp=1.0, size=64, progress=False)


WITHOUT_EXTRAS = """
import re, sys
from importlib.metadata import packages_distributions
from pathlib import Path
root = Path(sys.argv[1])
core, dev = (set(re.findall("^([a-z0-9.-]+)==", (root / name).read_text(), re.M))
             for name in ("requirements.lock", "requirements-dev.lock"))
for module, names in packages_distributions().items():
    if {re.sub("[-_.]+", "-", name).lower() for name in names} <= dev - core:
        sys.modules[module] = None
assert sys.modules.get("openslide", 0) is None
from medcore.studies.slides.study import SlideStudy
study = SlideStudy.read("phantom-slides", slides=4, side=1024, mpp=1.0, size=64, progress=False)
print(len(study.patches), study.look(sorted(study.paths)[0]).tissue.any())
"""


def test_the_phantom_is_drawn_and_read_with_what_make_install_brings(tmp_path: Path) -> None:
    """``make reports`` runs notebook 08 without any extra: a child that has only the packages of requirements.lock."""
    root = Path(module.__file__).parents[3]
    given = {**os.environ, "MEDCORE_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, root], env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, tissue = done.stdout.split()[-2:]
    assert int(count) > 0 and tissue == "True"


def test_tiles_of_a_patient_stand_on_one_side(study: SlideStudy) -> None:
    sides = [set(part.patients) for part in (study.tiles.train, study.tiles.validation, study.tiles.test)]
    assert all(not a & b for n, a in enumerate(sides) for b in sides[n + 1 :]) and len(set.union(*sides)) == SLIDES
    assert study.patches.card.synthetic and study.patches.card.name == "phantom-slides"
    assert study.quality["tiles"].sum() == len(study.patches) and set(study.quality["label"]) == {"tumour", "normal"}


def test_a_map_has_each_value_where_its_tile_lies(study: SlideStudy) -> None:
    found = study.look("P002.tiff")
    drawn = study.map_of("P002.tiff", np.arange(len(study.patches), dtype=float), found)
    for row in np.flatnonzero(study.patches.column("slide") == "P002.tiff"):
        x, y = ((study.patches.column(name)[row] + 64) / found.scale[0] for name in "xy")  # the tile's centre
        assert drawn[int(y), int(x)] == row
    truth = study.truth_map("P002.tiff", found)
    assert set(np.unique(truth[np.isfinite(truth)])) <= set(range(len(study.patches.classes)))
    figure = plots.slide_maps(
        found.overview, classes=study.patches.classes, labels={"truth": truth}, values={"v": drawn}
    )
    assert [panel.get_title(loc="left") or panel.get_title() for panel in figure.axes[:3]] == ["slide", "truth", "v"]
    plt.close(figure)


def test_right_answers_inside_and_at_borders_add_up(study: SlideStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is always right, and one that never is."""
    test = study.tiles.test
    for shift, right in ((0, len(test)), (1, 0)):
        answers = np.eye(len(test.classes))[(test.labels + shift) % len(test.classes)]
        monkeypatch.setattr(module, "predict", lambda *_, answers=answers: answers)
        counts = [text.split(" of ") for text in study.inside_and_at_borders(None).values()]
        assert sum(int(a) for a, _ in counts) == right and sum(int(b) for _, b in counts) == len(test)


def test_a_slide_is_answered_by_models_that_have_not_seen_its_patient(
    study: SlideStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tile's only feature is the number of its slide; what is learnt from, and what is answered, is noted."""
    bags = study.bags()
    assert bags.slides == [f"P{n:03d}.tiff" for n in range(1, SLIDES + 1)] and bags.truth.tolist() == [1, 0] * 3
    marked = Bags(bags.owner[:, None].astype(np.float32), bags.owner, bags.slides, bags.truth, bags.patients)
    learnt: list[set[int]] = []
    asked: list[set[int]] = []

    def learn(features: np.ndarray, owner: np.ndarray, truth: np.ndarray, _: object) -> None:
        slides = features[:, 0].astype(int)
        assert (bags.truth[slides] == truth[owner]).all()
        learnt.append(set(slides))

    def ask(_: object, features: np.ndarray, owner: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(set(features[:, 0].astype(int)))
        score = np.zeros(count)
        score[owner] = features[:, 0]
        return score, 1 / np.bincount(owner)[owner]

    monkeypatch.setattr(module, "fit_mil", learn)
    monkeypatch.setattr(module, "predict_mil", ask)
    scores, attention = study.answer_slides(marked, epochs=1)
    assert all(not a & b for a, b in zip(learnt, asked, strict=True)) and set.union(*asked) == set(range(SLIDES))
    assert scores.score.tolist() == list(range(SLIDES)) and np.allclose(attention, 1)  # an even share everywhere
    assert study.looks_at(attention).eq(1).all() or np.allclose(study.looks_at(attention), 1)


def test_labels_of_tiles_answer_for_a_slide_by_its_most_suspicious_ones(study: SlideStudy) -> None:
    """Features that tell the tissue of drawn tiles: slides of tumour come first, by folds over their patients."""
    labels = study.patches.labels
    told = np.eye(len(study.patches.classes) + 1, dtype=np.float32)[labels]  # tiles without a label: a column of theirs
    study = SlideStudy(study.folder, study.patches, SlideChoices(highest=1), seed=0)
    bags = study.bags()
    scores = study.answer_by_tiles(Bags(told, bags.owner, bags.slides, bags.truth, bags.patients))
    tumour = study.patches.classes.index("TUM")
    shown = np.bincount(bags.owner[labels == tumour], minlength=SLIDES)
    assert 0 < (shown > 0).sum() < SLIDES and scores.score[shown > 0].min() > scores.score[shown == 0].max()
    assert (scores.truth == bags.truth).all()


def test_attention_by_tissue_is_a_mean_over_the_slides_that_are_looked_for(study: SlideStudy) -> None:
    attention = np.random.default_rng(0).random(len(study.patches))
    table = study.patches.table
    for name, value in study.looks_at(attention).items():
        rows = (table["slide_label"] == "tumour").to_numpy() & (study.patches.label_names == name)
        assert value == pytest.approx(attention[rows].mean())


def test_a_folder_without_slides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="holds no whole slides"):
        SlideStudy.read(str(tmp_path), slides=4, side=1024)
