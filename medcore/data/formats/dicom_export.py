"""Write a grey set as DICOM files with a metadata.csv beside them, to practise reading and serving DICOM.

The files are made up from pixels of 8 bits: what a scanner would know and the set does not is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.npzfile import finding_column
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.1"  # Computed Radiography Image Storage
BITS = 12


def write_dicoms(patches: PatchSet, folder: Path) -> Path:
    """Write every image of a set as DICOM and what the table says of it as ``metadata.csv``.

    Pixels are stored in 12 bits with the window that shows them as they are. The columns of the table are ``image``,
    ``patient``, ``split``, ``label`` or a column of 1, 0, -1 or nothing for each finding, and whatever
    else the set knows.

    Returns:
        The table.

    Raises:
        MedcoreError: The set is in colour, the folder is not empty, or the extra is missing.
    """
    if patches.shape[2] != 1:
        raise MedcoreError(f"set {patches.card.name!r} is in colour: radiographs are grey")
    if folder.exists() and any(folder.iterdir()):
        raise MedcoreError(f"{folder} is not empty: name a new folder for the DICOM files")
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise MedcoreError("DICOM files are written by the extra: pip install 'medcore[dicom]'") from error
    table, several = patches.table.copy(), patches.card.task == "findings"
    names = [f"{row:06d}.dcm" for row in range(len(patches))]
    folder.mkdir(parents=True, exist_ok=True)
    for row, name in enumerate(names):
        facts = {key: table[key].iloc[row] for key in ("patient", "projection") if key in table}
        _write(folder / name, patches.take([row])[0, ..., 0], facts, patches.card.pixel_size_um, patches.fingerprint)
    given: dict[str, Any] = {"image": names, "patient": patches.patients, "split": patches.splits}
    if several:
        stated = {name: patches.findings[:, k] for k, name in enumerate(patches.classes)}
        given |= {name: np.where(values == -2, "", values.astype(str)) for name, values in stated.items()}
    else:
        given |= {"label": patches.label_names}
    spent = {"image", "patient", "split", "label", "source", *(finding_column(k) for k in range(len(patches.classes)))}
    rest = table.drop(columns=[name for name in table if name in spent])
    target = folder / "metadata.csv"
    rest.assign(**given)[[*given, *rest]].to_csv(target, index=False)
    return target


def _write(path: Path, pixels: np.ndarray, facts: dict[str, Any], pixel_size_um: float | None, origin: str) -> None:
    """One image ``(H, W)`` uint8."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    patient, highest = str(facts["patient"]), 2**BITS - 1
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(RADIOGRAPH)
    instance = generate_uid(entropy_srcs=[origin, path.name])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[origin, path.name, "series"])
    dataset.PatientID, dataset.PatientName, dataset.Modality = patient, "", "CR"
    dataset.ViewPosition, dataset.BurnedInAnnotation = str(facts.get("projection", "")), "YES"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, BITS, BITS - 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (BITS - 1), 2**BITS
    if pixel_size_um:
        dataset.ImagerPixelSpacing = [f"{pixel_size_um / 1000:.6g}"] * 2
    dataset.PixelData = np.rint(pixels.astype(np.float64) / 255 * highest).astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
