"""The dataset cards: licence, citation, classes, counts and where to get each set. The only home of such facts.

Checksums are those that the publishers print (MD5 on Zenodo and Dataverse). A set whose files cannot be fetched
without a registration, or whose checksum nobody publishes, has instructions and an expected layout instead.

    python -c "from medcore.data.info import describe; print(describe('ham10000'))"
"""

from __future__ import annotations

import difflib

from medcore.data.dataset_card import (
    CRC_CLASSES,
    CRC_TITLES,
    DERM_ABNORMAL,
    DERM_CLASSES,
    DERM_TITLES,
    GLAND_CLASSES,
    GLAND_GRADES,
    HELICO_CLASSES,
    HELICO_DENSITIES,
    DatasetCard,
    RemoteFile,
)
from medcore.data.info_medmnist import medmnist_cards
from medcore.errors import MedcoreError

__all__ = [
    "CARDS",
    "CRC_CLASSES",
    "DERM_ABNORMAL",
    "DERM_CLASSES",
    "GLAND_CLASSES",
    "GLAND_GRADES",
    "HELICO_CLASSES",
    "HELICO_DENSITIES",
    "DatasetCard",
    "RemoteFile",
    "card",
    "describe",
    "medmnist_card",
]


def card(name: str) -> DatasetCard:
    """The card of a set.

    Raises:
        MedcoreError: No set has this name.
    """
    if name not in CARDS:
        close = difflib.get_close_matches(name, CARDS, 1)
        hint = f"; did you mean {close[0]!r}? Known" if close else "; known"
        raise MedcoreError(f"no set is called {name!r}{hint} are {', '.join(CARDS)}")
    return CARDS[name]


def describe(name: str) -> str:
    """The card of a set as text for a terminal."""
    facts = card(name)
    titles = facts.class_titles or facts.classes
    classes = [f"{short} ({title})" if short != title else short
               for short, title in zip(facts.classes, titles, strict=True)]  # fmt: skip
    lines = [f"{facts.name}: {facts.title}" + ("  [synthetic phantom]" if facts.synthetic else "")]
    lines += [f"  classes:   {', '.join(classes)}"]
    lines += [f"  abnormal:  {', '.join(facts.abnormal)}"] if facts.abnormal else []
    lines += (
        [f"  counts:    {', '.join(f'{key} {count:,}' for key, count in facts.counts.items())}"] if facts.counts else []
    )
    lines += [f"  unit:      {facts.group}" + ("" if facts.patients_known else " (no patients published)")]
    lines += [f"  licence:   {facts.licence}"]
    lines += [f"  citation:  {facts.citation}"] if facts.citation else []
    lines += [f"  homepage:  {facts.homepage}"] if facts.homepage else []
    for file in facts.files:
        size = f", {file.size / 1e6:,.1f} MB" if file.size else ""
        lines += [f"  file:      {file.name}{size}, {file.checksum}"]
    lines += [f"  get it:    {facts.how}"] if facts.how else []
    lines += ["  layout:", *(f"    {line}" for line in facts.layout.splitlines())] if facts.layout else []
    return "\n".join(lines)


def medmnist_card(stem: str) -> DatasetCard | None:
    """The card of the MedMNIST set that a file such as ``pathmnist_64.npz`` is named after; None for others."""
    return CARDS.get(stem.lower().split("_")[0]) if stem.lower().split("_")[0].endswith("mnist") else None


_ZENODO_CRC = "https://zenodo.org/records/1214456/files/"
_DATAVERSE = "https://dataverse.harvard.edu/api/access/datafile/"
_MADE_HERE = "made on this machine in seconds; nothing to download"

_PUBLIC = [
    DatasetCard(
        "nct-crc",
        "Colorectal tissue, H&E, nine classes, 224×224: NCT-CRC-HE-100K (train) and CRC-VAL-HE-7K (test)",
        CRC_CLASSES,
        CRC_TITLES,
        abnormal=["TUM"],
        counts={"NCT-CRC-HE-100K": 100_000, "CRC-VAL-HE-7K": 7_180},
        licence="CC-BY-4.0",
        citation="Kather et al. 2019, PLoS Medicine 16(1):e1002730, doi:10.1371/journal.pmed.1002730; "
        "data doi:10.5281/zenodo.1214456",
        homepage="https://zenodo.org/records/1214456",
        group="image",
        patients_known=False,
        pixel_size_um=0.5,
        files=(
            RemoteFile("NCT-CRC-HE-100K.zip", _ZENODO_CRC + "NCT-CRC-HE-100K.zip",
                       "md5:6fd702d11df6292bc054397ae038a464", 11_690_284_003, ".", 20_000_000_000),
            RemoteFile("CRC-VAL-HE-7K.zip", _ZENODO_CRC + "CRC-VAL-HE-7K.zip",
                       "md5:2fd1651b4f94ebd818ebf90ad2b6ce06", 800_276_929, ".", 2_000_000_000),
        ),
        layout="NCT-CRC-HE-100K/CLASS/*.tif\nCRC-VAL-HE-7K/CLASS/*.tif   (.png works too)",
    ),
    DatasetCard(
        "ham10000",
        "Dermatoscopic images of pigmented skin lesions, seven diagnoses (HAM10000)",
        DERM_CLASSES,
        DERM_TITLES,
        abnormal=DERM_ABNORMAL,
        task="anomaly",
        counts={"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115},
        licence="CC-BY-NC-4.0",
        citation="Tschandl, Rosendahl, Kittler 2018, Scientific Data 5:180161, doi:10.1038/sdata.2018.161; "
        "data doi:10.7910/DVN/DBW86T",
        homepage="https://doi.org/10.7910/DVN/DBW86T",
        group="lesion",
        files=(
            RemoteFile("HAM10000_metadata.csv", _DATAVERSE + "4338392?format=original",
                       "md5:8f85fb1aa29d80a2797247e434deb79d", 690_218),
            RemoteFile("HAM10000_images_part_1.zip", _DATAVERSE + "3172585", "md5:4639bfa73ab251610530a97c898e6e46",
                       1_366_522_108, "HAM10000_images_part_1", 3_000_000_000),
            RemoteFile("HAM10000_images_part_2.zip", _DATAVERSE + "3172584", "md5:da43d6cc50f6613013be07e8986b384b",
                       1_403_566_547, "HAM10000_images_part_2", 3_000_000_000),
        ),
        layout="HAM10000_metadata.csv\nHAM10000_images_part_1/ISIC_*.jpg\nHAM10000_images_part_2/ISIC_*.jpg\n"
        "hmnist_28_28_RGB.csv   (optional: the tabular form, 28×28 pixels)",
    ),
    DatasetCard(
        "quironhelico",
        "Helicobacter pylori in gastric biopsies, immunohistochemistry, windows of 256×256 (QuironHelico)",
        HELICO_CLASSES,
        ["no H. pylori in the window", "H. pylori in the window"],
        abnormal=["positive"],
        task="diagnosis",
        licence="partly GPL-3.0, partly not stated: ask the authors before you pass it on",
        citation="Cano, Caravaca, Gil, Musulen 2023, arXiv:2309.16053; Cano, Musulen, Gil 2024, arXiv:2412.13857",
        homepage="https://arxiv.org/abs/2412.13857",
        how="ask the authors (Computer Vision Center, UAB Barcelona; see the paper) and unpack it as shown below",
        layout="CrossValidation/Annotated/<Pat_ID>_<Section_ID>/<Window_ID>.png\n"
        "CrossValidation/Cropped/<Pat_ID>_<Section_ID>/<Window_ID>.png\n"
        "HoldOut/<Pat_ID>_<Section_ID>/<Window_ID>.png\n"
        "PatientDiagnosis.csv   (CODI,DENSITAT)\n"
        "HP_WSI-CoordAnnotatedPatches.xlsx   (Pat_ID,Section_ID,Window_ID,...,Presence)",
    ),
    DatasetCard(
        "glas",
        "Colon glands, H&E, with gland masks and grade (GlaS challenge, MICCAI 2015)",
        GLAND_CLASSES,
        task="segmentation",
        counts={"train": 85, "testA": 60, "testB": 20},
        licence="research and non-commercial use only",
        citation="Sirinukunwattana et al. 2017, Medical Image Analysis 35:489-502, doi:10.1016/j.media.2016.08.008",
        homepage="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest",
        pixel_size_um=0.62,
        how="register at the homepage, download the Warwick-QU archive and unpack it into one folder",
        layout="train_1.bmp, train_1_anno.bmp, ..., testA_1.bmp, ..., Grade.csv\n"
        "or: train/images/train_1.jpg, train/mask/train_1.png, ..., Grade.csv",
    ),
]  # fmt: skip

_PHANTOMS = [
    DatasetCard("phantom-crc", "Phantom: colorectal tissue, H&E, nine classes", CRC_CLASSES, CRC_TITLES,
                abnormal=["TUM"], licence="MIT", synthetic=True, how=_MADE_HERE),
    DatasetCard("phantom-derm", "Phantom: pigmented skin lesions, seven diagnoses, several images a lesion",
                DERM_CLASSES, DERM_TITLES, abnormal=DERM_ABNORMAL, task="anomaly", licence="MIT", synthetic=True,
                group="lesion", how=_MADE_HERE),
    DatasetCard("phantom-helico", "Phantom: immunohistochemistry windows with and without bacteria, per patient",
                HELICO_CLASSES, abnormal=["positive"], task="diagnosis", licence="MIT", synthetic=True, how=_MADE_HERE),
    DatasetCard("phantom-glands", "Phantom: H&E images with gland masks, benign and malignant", GLAND_GRADES,
                task="segmentation", licence="MIT", synthetic=True, how=_MADE_HERE),
]  # fmt: skip


CARDS: dict[str, DatasetCard] = {facts.name: facts for facts in [*_PHANTOMS, *_PUBLIC, *medmnist_cards()]}
