"""The cards of the MedMNIST sets with one label an image, 28×28 (file names, MD5, counts as published)."""

from __future__ import annotations

from medcore.data import dataset_card as card
from medcore.data.dataset_card import DatasetCard, RemoteFile

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
    ("pathmnist", "colorectal tissue, H&E", card.CRC_CLASSES, card.CRC_TITLES, ["TUM"],
     "a8b06965200029087d5bd730944a56c1", (89_996, 10_004, 7_180)),
    ("dermamnist", "pigmented skin lesions", card.DERM_CLASSES, card.DERM_TITLES, card.DERM_ABNORMAL,
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
            patients_known=False,
            files=(RemoteFile(f"{name}.npz", f"{_URL}{name}.npz", f"md5:{md5}"),),
            layout=f"{name}.npz   (train_images, train_labels, val_..., test_...; any part may be missing)",
        )
        for name, what, classes, titles, abnormal, md5, counts in _SETS
    ]
