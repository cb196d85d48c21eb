"""The dataset cards: complete, consistent, and honest about what may be downloaded."""

import re

import numpy as np
import pytest

from medcore.data.card import Card
from medcore.data.datasets import CARDS, card, card_text, medmnist_card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores


@pytest.mark.parametrize("name", CARDS)
def test_each_card_is_complete(name: str) -> None:
    facts = CARDS[name]
    assert facts.name == name and facts.title and facts.licence != "unknown"
    assert len(set(facts.classes)) == len(facts.classes) >= 2
    assert not facts.class_titles or len(facts.class_titles) == len(facts.classes)
    assert set(facts.abnormal) <= set(facts.classes)
    assert facts.synthetic or (
        re.search(r"doi:10\.\d+/|arXiv:\d+", facts.citation) and facts.homepage.startswith("https://")
    )
    assert bool(facts.files) != bool(facts.how)  # either a program may fetch it, or the card says how to get it
    assert facts.synthetic or facts.layout
    assert isinstance(facts.as_card(), Card)


@pytest.mark.parametrize("name", [name for name in CARDS if CARDS[name].files])
def test_every_file_has_https_and_a_checksum(name: str) -> None:
    for file in CARDS[name].files:
        assert file.url.startswith("https://")
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum)
        assert "/" not in file.name


def test_published_counts_add_up() -> None:
    assert sum(card("ham10000").counts.values()) == 10_015
    assert sum(card("pathmnist").counts.values()) == sum(card("nct-crc").counts.values()) == 107_180
    assert sum(card("pneumoniamnist").counts.values()) == 5_856
    assert sum(card("dermamnist").counts.values()) == 10_015


def test_text_and_unknown_names() -> None:
    text = card_text("ham10000")
    assert "mel (melanoma)" in text and "CC-BY-NC-4.0" in text and "10.1038/sdata.2018.161" in text
    assert "md5:4639bfa73ab251610530a97c898e6e46" in text
    assert "register" in card_text("glas") and "[synthetic phantom]" in card_text("phantom-crc")
    with pytest.raises(MedcoreError, match=r"no set is called 'ham1000'; did you mean 'ham10000'\?"):
        card("ham1000")


def test_medmnist_files_are_known_by_their_stem() -> None:
    for stem in ("pathmnist", "pathmnist_64", "PathMNIST_test718"):
        facts = medmnist_card(stem)
        assert facts is not None and facts.name == "pathmnist"
    assert medmnist_card("mine") is None and medmnist_card("glas") is None


def test_the_card_says_what_one_image_is_and_scores_speak_of_it() -> None:
    """A photograph is no patch: dermatoscopic images are images, tiles of slides patches, IHC windows windows."""
    expected = {"phantom-crc": "patch", "nct-crc": "patch", "pathmnist": "patch", "quironhelico": "window"}
    expected |= {"phantom-helico": "window", "phantom-derm": "image", "ham10000": "image", "pneumoniamnist": "image"}
    assert {name: card(name).as_card().case for name in expected} == expected
    table = {"label": [0, 1], "patient": ["a", "b"], "split": ["test", "test"]}
    for name in expected:
        ps = PatchSet.from_arrays(
            np.zeros((2, 4, 4, 3), np.uint8), table, Card("toy", classes=["x", "y"], case=expected[name])
        )
        assert Scores.from_set(ps, np.eye(2)).unit == expected[name]
