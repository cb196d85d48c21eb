"""What the name of a folder or a column value says: images, masks, a split, a fold, a patient; and equal spellings."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_SPLIT_WORDS = {
    "train": "train", "training": "train", "trainset": "train", "tr": "train", "val": "val", "valid": "val",
    "valset": "val", "validation": "val", "validate": "val", "dev": "val", "tuning": "val", "test": "test",
    "testing": "test", "testset": "test", "ts": "test", "testa": "test", "testb": "test", "holdout": "test",
}  # fmt: skip
_FILLING = frozenset({"set", "data", "dataset", "split", "images", "image", "img", "imgs", "part"})
_IMAGE_WORDS = frozenset({"image", "images", "img", "imgs", "original", "originals", "photo", "photos", "picture",
                          "pictures", "input", "inputs", "raw", "jpegimages", "pngimages", "scans", "frames", "slices",
                          "tiles", "cxr"})  # fmt: skip
_MASK_WORDS = frozenset({"mask", "masks", "msk", "msks", "label", "labels", "annotation", "annotations", "anno",
                         "annos", "ann", "gt", "gts", "groundtruth", "groundtruths", "truth", "truths", "seg", "segs",
                         "segmentation", "segmentations", "segmentationclass", "manual", "manuals", "target",
                         "targets"})  # fmt: skip
_FIELD_WORDS = frozenset({"fov", "roi", "rois", "field", "border"})
_FOLD = re.compile(r"^(fold|cv|kfold|partition)[ _-]?\d+$", re.IGNORECASE)
_PATIENT_WORDS = frozenset({"p", "pt", "pat", "patient", "pid", "case", "subject", "subj", "sub", "person", "tcga",
                            "brats", "study", "participant", "donor", "mouse", "animal", "specimen", "slide",
                            "wsi", "id", "lesion", "scan"})  # fmt: skip
_CLASS_WORDS = frozenset({"class", "grade", "stage", "type", "level", "score", "birads", "kl", "label", "category",
                          "cat", "isup", "gleason", "c", "g", "t", "cls", "group", "cluster", "degree"})  # fmt: skip
_NO_CLASS_WORDS = frozenset({"unlabeled", "unlabelled", "unsorted", "unannotated", "result", "results", "output",
                             "outputs", "prediction", "predictions", "preds", "overlay", "overlays", "plots",
                             "figures", "logs", "tmp", "temp", "backup", "old", "misc", "thumbnails", "preview",
                             "previews", "example", "examples", "augmented", "checkpoints", "weights", "code", "src",
                             "docs", "unused", "excluded", "rejected"})  # fmt: skip
_COPY = re.compile(r"^(.*?)( - (copy|kopie|copia|copie)( \(\d+\))?| \(\d+\)| copy( \d+)?|_copy\d*)$", re.IGNORECASE)
UNKNOWN = frozenset({"unknown", "unk", "unclear", "undetermined", "not available", "not known", "not specified", "n.d.",
                     "nd", "n.k.", "tbd", "k.a.", "unbekannt", "inconnu", "desconocido", "unlabeled", "unlabelled",
                     "未知", "未标注"})  # fmt: skip
_ALIKE = str.maketrans("авекмнорстхуіјѕ", "abekmhopctxyijs")  # Cyrillic letters that look Latin, of one case


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: ``imagesTr`` is images, tr; ``Ground Truth`` is ground, truth."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[a-z]+", parted.lower())


def split_name(text: str) -> str | None:
    """``train``, ``val``, ``test`` or nothing for a usual spelling; None for anything else.

    Words beside it that say nothing are passed over: ``Training_Set``, ``test-images``, ``hold out``.
    """
    if not text.strip():
        return ""
    text = re.sub(r"^\s*(\d{1,2}|[A-Za-z])[.)]\s+", "", text)  # "a. Training Set"
    words = [word for word in words_of(text) if word not in _FILLING]
    if words == ["hold", "out"]:
        return "test"
    named = re.sub(r"[^a-z]", "", text.lower())
    if re.search(r"\d", text):
        return None
    if named in _SPLIT_WORDS:
        return _SPLIT_WORDS[named]
    sides = {_SPLIT_WORDS.get(word) for word in words}
    return sides.pop() if len(sides) == 1 else None


def split_within(name: str) -> str:
    """The split that a longer name carries (``imagesTr``, ``ISIC2018_Task1_Training_Input``); nothing without one."""
    sides = {_SPLIT_WORDS[word] for word in words_of(name) if word in _SPLIT_WORDS}
    return sides.pop() if len(sides) == 1 else ""


def role_of(name: str) -> str:
    """``images``, ``masks``, ``field`` (field of view) or nothing, by the words of a folder's name."""
    words = set(words_of(name))
    if words & _FIELD_WORDS:
        return "field"
    if words & _MASK_WORDS or {"ground", "truth"} <= words:
        return "masks"
    return "images" if words & _IMAGE_WORDS else ""


def are_folds(names: Sequence[str]) -> bool:
    """Whether all names are those of cross-validation folds."""
    return len(names) > 1 and all(_FOLD.match(name) for name in names)


def are_patients(names: Iterable[str]) -> bool:
    """Whether all names look like those of patients (``P07``, ``patient_12``, ``8863``), not of classes."""
    names = list(names)
    if len(names) < 2 or not all(re.search(r"\d", name) for name in names):
        return False
    if all(re.fullmatch(r"\d+[xX]|(19|20)\d\d", name) for name in names):  # magnifications, years
        return False
    first = {words_of(name)[:1][0] if words_of(name) else "" for name in names}
    if first & _CLASS_WORDS:
        return False
    digits = [len("".join(re.findall(r"\d", name))) for name in names]
    return first <= _PATIENT_WORDS or min(digits) >= 3 or (len(names) >= 12 and "" not in first)


def no_class(name: str, beside: Iterable[str]) -> str:
    """Why a folder may be no class: a copy of a folder beside it, or a word such as ``results``; nothing for others."""
    copied = _COPY.match(name)
    if copied and copied[1] in set(beside):
        return f"a copy of {copied[1]}/"
    return "no class by its name" if set(words_of(name)) & _NO_CLASS_WORDS else ""


def spelling_key(text: str) -> str:
    """Equal for names that a reader cannot tell apart, or that differ only in capitals, blanks, ``_`` or ``-``.

    Composed accents, full-width and Cyrillic letters, and characters without a width are such differences.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return re.sub(r"[\s_\-]+", " ", plain.casefold().translate(_ALIKE)).strip()


def merge_spellings(names: Iterable[str], keep: Iterable[str] = ()) -> dict[str, str]:
    """Each name to the spelling that stands for it: the one in ``keep``, else the commonest, else the first."""
    counts = Counter(names)
    kept = list(keep)
    chosen: dict[str, str] = {spelling_key(name): name for name in reversed(kept)}
    for name, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        chosen.setdefault(spelling_key(name), name)
    return {name: name if name in kept else chosen[spelling_key(name)] for name in counts}


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that may be one name with a slip of the pen: long, and different in a letter or two."""
    long = sorted(name for name in set(names) if len(name) >= 6)[:200]
    pairs = []
    for k, one in enumerate(long):
        for other in long[k + 1 :]:
            if re.sub(r"\D", "", one) != re.sub(r"\D", "", other) or one[-2:].isupper() != other[-2:].isupper():
                continue
            if one.split()[:-1] == other.split()[:-1] and min(len(one.split()[-1]), len(other.split()[-1])) <= 3:
                continue  # "stage I", "stage II"
            if difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio() > 0.88:
                pairs.append((one, other))
    return pairs
