"""What a dataset card is, and the class names that several sets share."""

from __future__ import annotations

from dataclasses import dataclass, field

from medcore.data.card import Card, Group, Task

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


@dataclass(frozen=True)
class RemoteFile:
    """A file that may be downloaded.

    Attributes:
        name: File name it gets.
        url: Where it is published.
        checksum: ``md5:...`` or ``sha256:...`` as the publisher prints it.
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
            "pixel_size_um": self.pixel_size_um, "group": self.group, "patients_known": self.patients_known,
            "synthetic": self.synthetic,
        }  # fmt: skip
        return Card.from_dict(values | changes)
