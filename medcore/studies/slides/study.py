"""One study of whole slides: tiles and their truth, where on a slide the model answers, and one answer per slide.

    study = SlideStudy.read("phantom-slides", slides=16, side=2048, mpp=1.0, size=64)
    study.tiles                 # a ClassificationStudy of the tiles that have a label
    bags = study.bags(encoder)  # features of all tiles, a bag per slide
    study.answer_slides(bags)   # a probability per slide from folds over patients, and the attention of each tile

- Tiles are split over patients. Whatever answers for a slide has seen no slide of its patient.
- The truth of a tile is what is drawn at its centre; the truth of a slide stands in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.slides import make_slides
from medcore.data.remote import find_source
from medcore.data.slides.reader import find_slides
from medcore.data.slides.slide import Slide
from medcore.data.slides.tissue import Tissue, find_tissue
from medcore.data.source import SLIDE_PHANTOM, data_home
from medcore.data.splits import patient_folds
from medcore.errors import MedcoreError
from medcore.evaluation.features import features
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores
from medcore.models.classifier import Classifier
from medcore.studies.choices import Choices
from medcore.studies.classification.study import ClassificationStudy
from medcore.studies.heads import LINEAR, fit_head
from medcore.training.config import setting
from medcore.training.mil import MILConfig, fit_mil, predict_mil


@dataclass(frozen=True)
class SlideChoices(Choices):
    """What a study of slides fixes beside the parameters of its notebook."""

    mil_rate: float = setting(2e-3, "Learning rate of the attention model.")
    mil_tiles: int = setting(64, "Tiles of a slide that a training step of the attention model sees.", "tiles")
    folds: int = setting(4, "Folds over patients of the slide's answer.", "folds")
    highest: int = setting(3, "Most suspicious tiles whose mean answers for a slide, where tiles have labels.", "tiles")


@dataclass(frozen=True)
class Bags:
    """Features of all tiles, a bag per slide.

    Attributes:
        features: **Shape** ``(N, D)``, in the order of the set.
        owner: Slide of each tile. **Shape** ``(N,)``.
        slides: File names of the slides.
        truth: 1 where a slide is of the second class. **Shape** ``(S,)``.
        patients: **Shape** ``(S,)``.
    """

    features: np.ndarray
    owner: np.ndarray
    slides: list[str]
    truth: np.ndarray
    patients: np.ndarray


class SlideStudy:
    """Tiles, maps and answers of a folder of slides; see the top of this file."""

    def __init__(self, folder: Path, patches: PatchSet, choices: SlideChoices, seed: int) -> None:
        self.folder, self.patches, self.choices, self.seed = folder, patches, choices, seed
        self.paths = {path.name: path for path in find_slides(folder)}

    @classmethod
    def read(
        cls, source: str, *, slides: int, side: int, seed: int = 0, choices: SlideChoices | None = None,
        quality: Path | None = None, **options: Any,
    ) -> SlideStudy:  # fmt: skip
        """Draw the phantom slides (or find those that ``source`` names) and cut their tiles.

        Args:
            slides: Phantom: how many.
            side: Phantom: pixels a side.
            options: As for ``read_set``: mpp, size, overlap, tissue, ...

        Raises:
            MedcoreError: The folder holds no slides, or no drawings and no labels.
        """
        if source == SLIDE_PHANTOM:
            place = data_home() / "phantoms" / f"{source}-{slides}-{side}-{seed}"
            folder = make_slides(place, slides=slides, side=side, seed=seed)
        else:
            folder = find_source(source)
        if not find_slides(folder):
            raise MedcoreError(f"data='{source}' holds no whole slides; notebook 06 is for images")
        patches = read_set(folder, quality=quality, cache=quality is None, **options)
        if source == SLIDE_PHANTOM:
            patches = patches.with_card(replace(patches.card, name=source))
        return cls(folder, patches, choices or SlideChoices(), seed)

    @cached_property
    def tiles(self) -> ClassificationStudy:
        """The tiles that have a label, split over patients; rare classes of fewer than two patients are left out."""
        from medcore.data.splits import assign_splits
        from medcore.studies.preprocessing import select_classes

        labelled = self.patches.select(self.patches.labels >= 0)
        spread = {name: len(np.unique(labelled.patients[labelled.label_names == name])) for name in labelled.classes}
        enough = [name for name in labelled.classes if spread[name] >= 3]
        if len(enough) < 2:
            raise MedcoreError(f"tiles of fewer than two classes come from three patients or more ({spread})")
        kept = labelled if enough == labelled.classes else select_classes(labelled, enough)
        return ClassificationStudy(assign_splits(kept, seed=self.seed), seed=self.seed)

    @property
    def quality(self) -> pd.DataFrame:
        """One row per slide: patient, tiles, tissue, blur."""
        table = self.patches.table
        grouped = table.groupby("slide", sort=True)
        found = grouped.agg(patient=("patient", "first"), tiles=("x", "size"), tissue=("tissue", "mean"),
                            dense=("dense", "mean"), sharpness=("sharpness", "median"))  # fmt: skip
        if "slide_label" in table:
            found.insert(1, "label", grouped["slide_label"].first())
        return found

    def look(self, slide: str) -> Tissue:
        """What a coarse look at a slide finds."""
        with Slide(self.paths[slide]) as opened:
            return find_tissue(opened)

    def map_of(self, slide: str, values: np.ndarray, found: Tissue) -> np.ndarray:
        """A value per tile of a slide on its overview, NaN where there is no tile. **Shape** ``(h, w)`` float64.

        Args:
            values: One per tile of the set. **Shape** ``(N,)``.
        """
        canvas = np.full(found.tissue.shape, np.nan)
        rows = np.flatnonzero(self.patches.column("slide") == slide)
        side = self._side(slide)
        for row in rows:
            x, y = self.patches.column("x")[row], self.patches.column("y")[row]
            left, right = round(x / found.scale[0]), round((x + side[0]) / found.scale[0])
            top, low = round(y / found.scale[1]), round((y + side[1]) / found.scale[1])
            canvas[top : max(low, top + 1), left : max(right, left + 1)] = values[row]
        return canvas

    def truth_map(self, slide: str, found: Tissue) -> np.ndarray:
        """Class index of what is drawn at the centre of each tile; NaN where nothing is. **Shape** ``(h, w)``."""
        labels = self.patches.labels.astype(float)
        return self.map_of(slide, np.where(labels < 0, np.nan, labels), found)

    def _answers(self, slide: str, network: Classifier) -> np.ndarray:
        """Probabilities of the tiles of a slide, NaN for all others. **Shape** ``(N, K)``."""
        own = np.flatnonzero(self.patches.column("slide") == slide)
        shares = np.full((len(self.patches), len(self.tiles.patches.classes)), np.nan)
        shares[own] = predict(network, self.patches.select(own))
        return shares

    def compare_maps(self, slide: str, network: Classifier, found: Tissue) -> dict[str, np.ndarray]:
        """Truth and answers of a slide's tiles on its overview, as indexes into the classes of all tiles."""
        places = np.array([self.patches.classes.index(name) for name in self.tiles.patches.classes])
        shares = self._answers(slide, network)
        asked = np.isfinite(shares[:, 0])
        answered = np.full(len(shares), np.nan)
        answered[asked] = places[shares[asked].argmax(1)]
        return {"truth": self.truth_map(slide, found), "answer": self.map_of(slide, answered, found)}

    def heat(self, slide: str, network: Classifier, found: Tissue) -> tuple[np.ndarray, str]:
        """Probability of TUM where there is such a class, else of the rarest, for each tile; and its name."""
        wanted = self._wanted
        place = self.tiles.patches.classes.index(wanted)
        return self.map_of(slide, self._answers(slide, network)[:, place], found), wanted

    @property
    def _wanted(self) -> str:
        names = self.tiles.patches.classes
        counts = np.bincount(self.tiles.patches.labels, minlength=len(names))
        return "TUM" if "TUM" in names else names[int(counts.argmin())]

    def inside_and_at_borders(self, network: Classifier) -> dict[str, str]:
        """Right answers of the test tiles whose four neighbours have their label, and of the others, as counts."""
        test = self.tiles.test
        right = predict(network, test).argmax(1) == test.labels
        names = test.label_names
        step = {}
        for slide in set(test.column("slide")):
            width, height = self._side(slide)
            step[slide] = round(width * (1 - self._overlap)), round(height * (1 - self._overlap))
        places = zip(test.column("slide"), test.column("x"), test.column("y"), strict=True)
        known = {place: name for place, name in zip(places, names, strict=True)}
        inner = np.zeros(len(test), bool)
        for n, (slide, x, y) in enumerate(known):
            across, down = step[slide]
            around = [(slide, x + dx, y + dy) for dx, dy in ((across, 0), (-across, 0), (0, down), (0, -down))]
            inner[n] = all(known.get(place) == names[n] for place in around)
        parts = {"inside of areas": inner, "at borders": ~inner}
        return {name: f"{int(right[rows].sum())} of {int(rows.sum())}" for name, rows in parts.items()}

    @property
    def _overlap(self) -> float:
        return float(self.patches.card.recipe.get("overlap", 0)) / self.patches.shape[1]

    def shown_slide(self, bags: Bags) -> str:
        """A slide of the class that is looked for, to be shown: the first of the test part, else the first."""
        wanted = [name for name, truth in zip(bags.slides, bags.truth, strict=True) if truth]
        test = set(self.tiles.test.column("slide"))
        return next((name for name in wanted if name in test), wanted[0])

    def _side(self, slide: str) -> tuple[float, float]:
        """Level-0 pixels that a tile spans."""
        height, width, _ = self.patches.shape
        mpp = self.patches.card.pixel_size_um or 1.0
        with Slide(self.paths[slide]) as opened:
            return width * mpp / opened.mpp[0], height * mpp / opened.mpp[1]

    # --- one answer per slide

    @cached_property
    def slide_classes(self) -> list[str]:
        """The two classes of the slides, in alphabetical order; the second is the one that is looked for.

        Raises:
            MedcoreError: The table gives no label to the slides, or not two.
        """
        table = self.patches.table
        names = (
            sorted(set(table["slide_label"]) - {""})
            if "slide_label" in table
            else sorted(set(self.patches.label_names))
        )
        if len(names) != 2:
            raise MedcoreError(
                f"a slide's answer needs two classes of slides in the table; there are {len(names)}: {names}"
            )
        return names

    def bags(self, encoder: Classifier | None = None) -> Bags:
        """Features of every tile, a bag per slide; without an encoder its mean colour alone, for a baseline."""
        table = self.patches.table
        labels = table["slide_label"].to_numpy() if "slide_label" in table else self.patches.label_names
        slides, first, owner = np.unique(self.patches.column("slide"), return_index=True, return_inverse=True)
        if encoder is None:
            values = np.concatenate([chunk.mean((1, 2)) for chunk in self.patches.chunks()]).astype(np.float32)
        else:
            values = np.asarray(features(self.patches, encoder).values, np.float32)
        truth = (labels[first] == self.slide_classes[1]).astype(np.int64)
        return Bags(values, owner, slides.tolist(), truth, self.patches.patients[first])

    def answer_slides(self, bags: Bags, epochs: int) -> tuple[Scores, np.ndarray]:
        """Attention over the tiles: a probability per slide by a model that has not seen its patient.

        Returns:
            Scores of the slides, and the attention of each tile relative to an even share (1 = as much as any other).
            **Shape** ``(N,)``.
        """
        config = MILConfig(epochs=epochs, learning_rate=self.choices.mil_rate, most_windows=self.choices.mil_tiles,
                           seed=self.seed)  # fmt: skip
        score, attention = np.zeros(len(bags.slides)), np.zeros(len(bags.owner))
        for train, held in self._folds(bags):
            model = fit_mil(*_subset(bags, train)[:2], bags.truth[train], config)
            values, owner, rows = _subset(bags, held)
            score[held], weight = predict_mil(model, values, owner, len(held))
            attention[rows] = weight * np.bincount(owner)[owner]
        return self._scores(bags, score), attention

    def answer_by_tiles(self, bags: Bags) -> Scores:
        """Labels of tiles instead of slides: a linear probe on the bags' features learns from other patients' tiles.

        A slide's score is the mean of its highest probabilities of the tissue that ``heat`` shows.
        """
        score, place = np.zeros(len(bags.slides)), self.patches.classes.index(self._wanted)
        for train, held in self._folds(bags):
            own = _subset(bags, train)[2]
            known = own[self.patches.labels[own] >= 0]
            head = fit_head(LINEAR, bags.features[known], self.patches.select(known), seed=self.seed)
            values, owner, _ = _subset(bags, held)
            shares = head.probabilities(values)[:, place]
            for k, slide in enumerate(held):
                score[slide] = np.sort(shares[owner == k])[-self.choices.highest :].mean()
        return self._scores(bags, score)

    def looks_at(self, attention: np.ndarray) -> pd.Series:
        """Mean attention of each tissue on slides of the second class; 1 = an even share."""
        table = self.patches.table
        wanted = table["slide_label"] == self.slide_classes[1] if "slide_label" in table else table["label"] >= 0
        frame = pd.DataFrame({"tissue": self.patches.label_names, "attention": attention})[wanted.to_numpy()]
        return frame[frame["tissue"] != ""].groupby("tissue")["attention"].mean().sort_values(ascending=False)

    def _scores(self, bags: Bags, score: np.ndarray) -> Scores:
        blank = np.full(len(score), "test")
        return Scores(bags.truth, score, bags.patients, blank, tuple(self.slide_classes), unit="case")

    def _folds(self, bags: Bags) -> list[tuple[np.ndarray, np.ndarray]]:
        first = np.array([int(np.flatnonzero(bags.owner == k)[0]) for k in range(len(bags.slides))])
        card = replace(self.patches.card, classes=self.slide_classes, abnormal=[])
        slides = self.patches.select(first).with_columns(label=np.zeros(len(first), int)).with_card(card)
        slides = slides.with_columns(label=bags.truth)
        folds = patient_folds(slides, min(self.choices.folds, len(np.unique(bags.patients))), seed=self.seed)
        return [(fold.train, fold.validation) for fold in folds]


def _subset(bags: Bags, slides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, owner (numbered anew) and rows of some slides."""
    place = np.full(len(bags.slides), -1)
    place[slides] = np.arange(len(slides))
    rows = np.flatnonzero(place[bags.owner] >= 0)
    return bags.features[rows], place[bags.owner[rows]], rows
