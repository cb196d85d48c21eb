"""Phantoms of a second hospital: other patients, stain, scanner and prevalence; the first one stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from medcore.data import datasets
from medcore.data.phantoms import PHANTOMS
from medcore.errors import MedcoreError

SMALL = {
    "phantom-crc": {"patients": 30, "images_per_patient": 6, "size": 16},
    "phantom-derm": {"patients": 300, "size": 16},
    "phantom-helico": {"patients": 48, "windows_per_patient": 4, "size": 16},
    "phantom-glands": {"patients": 4, "images_per_patient": 1, "size": 64},
}


@pytest.mark.parametrize("name", SMALL)
def test_no_patient_is_in_both_and_the_images_look_different(name):
    first, second = PHANTOMS[name](**SMALL[name]), PHANTOMS[f"{name}-b"](**SMALL[name])
    assert not set(first.patients) & set(second.patients)
    assert second.card.name == f"{name}-b" and second.card.classes == first.card.classes and second.card.synthetic
    means = [ps.take().mean(axis=(0, 1, 2)) for ps in (first, second)]
    assert np.abs(means[0] - means[1]).max() > 3  # grey levels


def test_the_findings_are_rarer_at_the_second_hospital():
    crc, helico = ([PHANTOMS[n + s](**SMALL[n]) for s in ("", "-b")] for n in ("phantom-crc", "phantom-helico"))
    tumour = [float((ps.label_names == "TUM").mean()) for ps in crc]
    assert tumour[1] < tumour[0]
    infected = [float(np.mean(ps.column("diagnosis") != ps.column("diagnosis")[0])) for ps in helico]
    assert infected[1] < infected[0]
    derm = [PHANTOMS["phantom-derm" + s](**SMALL["phantom-derm"]) for s in ("", "-b")]
    abnormal = [float(np.isin(ps.label_names, ps.card.abnormal).mean()) for ps in derm]
    assert abnormal[1] < abnormal[0]


def test_every_phantom_has_a_card_and_an_unknown_hospital_is_refused():
    assert set(PHANTOMS) == {name for name, card in datasets.CARDS.items() if card.synthetic}
    with pytest.raises(MedcoreError, match="hospital='c'"):
        PHANTOMS["phantom-crc"](hospital="c")
