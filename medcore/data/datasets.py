"""The only home of facts about the sets that medcore knows: licence, citation, classes, counts, where to get each."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

from medcore.data.card import Card, Case, Group, Task
from medcore.errors import MedcoreError

CRC_CLASSES = ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
CRC_TITLES = ["adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
              "cancer-associated stroma", "colorectal adenocarcinoma epithelium"]  # fmt: skip
DERM_CLASSES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
DERM_TITLES = ["actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma",
               "benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi",
               "vascular lesions"]  # fmt: skip
DERM_ABNORMAL = ["akiec", "bcc", "mel"]
HELICO_CLASSES = ["negative", "positive"]
HELICO_DENSITIES = ["NEGATIVA", "BAIXA", "ALTA"]
GLAND_CLASSES = ["background", "gland"]
GLAND_GRADES = ["background", "benign", "malignant"]
XRAY_FINDINGS = ["cardiomegaly", "consolidation", "effusion", "nodule", "pneumothorax"]


def title_of(name: str) -> str:
    """An abbreviated class of the sets that we know, in full words; empty for any other."""
    return dict(zip(CRC_CLASSES + DERM_CLASSES, CRC_TITLES + DERM_TITLES, strict=True)).get(name, "")


@dataclass(frozen=True)
class RemoteFile:
    """A file that may be downloaded.

    Attributes:
        name: File name it gets.
        url: Where it is published.
        checksum: ``md5:...`` or ``sha256:...`` as the publisher prints it; empty for a file that nobody vouches for.
        size: Bytes; None when not published.
        unpack_to: Folder (below the set's folder) that an archive is unpacked into; None to keep the file as it is.
        unpacked_size: Most bytes that unpacking may write; None for ten times the archive.
    """

    name: str
    url: str
    checksum: str
    size: int | None = None
    unpack_to: str | None = None
    unpacked_size: int | None = None


@dataclass(frozen=True)
class DatasetCard:
    """Everything that is known about a public set.

    Attributes:
        name: What ``--data`` takes.
        title: One line.
        classes: Class names in the order of their indexes.
        class_titles: The same in full words.
        abnormal: Classes that count as abnormal.
        task: What it is made for.
        counts: Images per class, or per part.
        licence: SPDX name or a sentence.
        citation: Reference with DOI.
        homepage: Where it is published.
        group: The unit that must not stand on two sides of a split.
        case: What one image is.
        patients_known: Whether the publisher says which images come from one patient.
        pixel_size_um: Micrometres a pixel.
        synthetic: True for phantoms.
        files: What ``medcore data fetch`` downloads; empty when you have to get it yourself.
        layout: The expected files, for people.
        how: How to get it yourself.
    """

    name: str
    title: str
    classes: list[str]
    class_titles: list[str] = field(default_factory=list)
    abnormal: list[str] = field(default_factory=list)
    task: Task = "classification"
    counts: dict[str, int] = field(default_factory=dict)
    licence: str = "unknown"
    citation: str = ""
    homepage: str = ""
    group: Group = "patient"
    case: Case = "image"
    patients_known: bool = True
    pixel_size_um: float | None = None
    synthetic: bool = False
    files: tuple[RemoteFile, ...] = ()
    layout: str = ""
    how: str = ""

    def as_card(self, **changes: object) -> Card:
        """The part of these facts that a prepared set carries, with changes."""
        values = {
            "name": self.name, "title": self.title, "classes": list(self.classes), "abnormal": list(self.abnormal),
            "task": self.task, "licence": self.licence, "citation": self.citation, "homepage": self.homepage,
            "pixel_size_um": self.pixel_size_um, "group": self.group, "case": self.case,
            "patients_known": self.patients_known,
            "synthetic": self.synthetic,
        }  # fmt: skip
        return Card.from_dict(values | changes)


_URL = "https://zenodo.org/records/10519652/files/"
_CITATION = "Yang et al. 2023, Scientific Data 10:41, doi:10.1038/s41597-022-01721-8; data doi:10.5281/zenodo.10519652"
_ORGANS = ["bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
           "lung-right", "pancreas", "spleen"]  # fmt: skip
_BLOOD = ["basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
          "platelet"]  # fmt: skip
_TISSUE = ["collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
           "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
           "thick ascending limb"]  # fmt: skip
_OCT = ["choroidal neovascularization", "diabetic macular edema", "drusen", "normal"]
# name, what it shows, short classes, full classes, abnormal classes, MD5, (train, val, test)
_SETS = [
    ("pathmnist", "colorectal tissue, H&E", CRC_CLASSES, CRC_TITLES, ["TUM"],
     "a8b06965200029087d5bd730944a56c1", (89_996, 10_004, 7_180)),
    ("dermamnist", "pigmented skin lesions", DERM_CLASSES, DERM_TITLES, DERM_ABNORMAL,
     "0744692d530f8e62ec473284d019b0c7", (7_007, 1_003, 2_005)),
    ("octmnist", "retinal OCT", _OCT, _OCT, _OCT[:3], "c68d92d5b585d8d81f7112f81e2d0842", (97_477, 10_832, 1_000)),
    ("pneumoniamnist", "paediatric chest X-rays", ["normal", "pneumonia"], ["normal", "pneumonia"], ["pneumonia"],
     "28209eda62fecd6e6a2d98b1501bb15f", (4_708, 524, 624)),
    ("retinamnist", "fundus images, diabetic retinopathy grade", [f"grade {k}" for k in range(5)],
     [f"grade {k}" for k in range(5)], [f"grade {k}" for k in range(1, 5)], "bd4c0672f1bba3e3a89f0e4e876791e4",
     (1_080, 120, 400)),
    ("breastmnist", "breast ultrasound", ["malignant", "normal or benign"], ["malignant", "normal or benign"],
     ["malignant"], "750601b1f35ba3300ea97c75c52ff8f6", (546, 78, 156)),
    ("bloodmnist", "blood cells", _BLOOD, _BLOOD, [], "7053d0359d879ad8a5505303e11de1dc", (11_959, 1_712, 3_421)),
    ("tissuemnist", "kidney cortex cells", _TISSUE, _TISSUE, [], "ebe78ee8b05294063de985d821c1c34b",
     (165_466, 23_640, 47_280)),
    ("organamnist", "abdominal CT, axial", _ORGANS, _ORGANS, [], "866b832ed4eeba67bfb9edee1d5544e6",
     (34_581, 6_491, 17_778)),
    ("organcmnist", "abdominal CT, coronal", _ORGANS, _ORGANS, [], "0afa5834fb105f7705a7d93372119a21",
     (13_000, 2_392, 8_268)),
    ("organsmnist", "abdominal CT, sagittal", _ORGANS, _ORGANS, [], "e5c39f1af030238290b9557d9503af9d",
     (13_940, 2_452, 8_829)),
]  # fmt: skip


def medmnist_cards() -> list[DatasetCard]:
    """One card a set."""
    return [
        DatasetCard(
            name,
            f"MedMNIST: {what}",
            list(classes),
            list(titles),
            abnormal=list(abnormal),
            counts=dict(zip(("train", "val", "test"), counts, strict=True)),
            licence="CC-BY-NC-4.0" if name == "dermamnist" else "CC-BY-4.0",
            citation=_CITATION,
            homepage="https://medmnist.com",
            group="image",
            case="patch" if name == "pathmnist" else "image",
            patients_known=False,
            files=(RemoteFile(f"{name}.npz", f"{_URL}{name}.npz", f"md5:{md5}"),),
            layout=f"{name}.npz   (train_images, train_labels, val_..., test_...; any part may be missing)",
        )
        for name, what, classes, titles, abnormal, md5, counts in _SETS
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


def card_text(name: str) -> str:
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
        case="patch",
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
        case="window",
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
                abnormal=["TUM"], licence="MIT", synthetic=True, case="patch", how=_MADE_HERE),
    DatasetCard("phantom-derm", "Phantom: pigmented skin lesions, seven diagnoses, several images a lesion",
                DERM_CLASSES, DERM_TITLES, abnormal=DERM_ABNORMAL, task="anomaly", licence="MIT", synthetic=True,
                group="lesion", how=_MADE_HERE),
    DatasetCard("phantom-helico", "Phantom: immunohistochemistry windows with and without bacteria, per patient",
                HELICO_CLASSES, abnormal=["positive"], task="diagnosis", case="window", licence="MIT", synthetic=True,
                how=_MADE_HERE),
    DatasetCard("phantom-glands", "Phantom: H&E images with gland masks, benign and malignant", GLAND_GRADES,
                task="segmentation", licence="MIT", synthetic=True, how=_MADE_HERE),
    DatasetCard("phantom-xray", "Phantom: chest radiographs with several findings each, of several sites",
                XRAY_FINDINGS, task="findings", licence="MIT", synthetic=True, how=_MADE_HERE),
]  # fmt: skip
_PHANTOMS += [
    replace(facts, name=f"{facts.name}-b", title=f"{facts.title}; at a second hospital") for facts in _PHANTOMS
]
CARDS: dict[str, DatasetCard] = {facts.name: facts for facts in [*_PHANTOMS, *_PUBLIC, *medmnist_cards()]}
