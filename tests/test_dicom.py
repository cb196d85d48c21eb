"""DICOM: rescale, window, MONOCHROME1 and patients, against values computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from medcore.data.images import DecodeOptions, decode, probe
from medcore.data.load import read_set
from medcore.errors import MedcoreError

pydicom = pytest.importorskip("pydicom")
STORED = (np.arange(12 * 16).reshape(12, 16) * 20).astype(np.uint16)  # 0..3820, as in a CT of 12 bits


def write(path: Path, stored: np.ndarray = STORED, **tags: object) -> Path:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientID, dataset.Modality = "MRN 4711", "CT"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """The linear function of DICOM PS3.3 C.11.2.1.2.1, written out by its three cases."""
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    inside = ((values - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.where(values <= low, 0, np.where(values > high, 255, np.rint(inside))).astype(np.uint8)


def test_given_window_is_in_hounsfield_units(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.dcm", WindowCenter=40, WindowWidth=400)
    hounsfield = STORED.astype(float) - 1024
    lung = decode(path, DecodeOptions(window=(-600, 1500)))
    assert np.array_equal(lung.pixels[..., 0], windowed(hounsfield, -600, 1500))
    assert lung.conversions == ("DICOM window -600/1500 (given)",)
    of_file = decode(path)
    assert np.array_equal(of_file.pixels[..., 0], windowed(hounsfield, 40, 400))
    assert of_file.conversions == ("DICOM window of the file applied",)


def test_without_a_window_the_stored_bits_are_scaled(tmp_path: Path) -> None:
    decoded = decode(write(tmp_path / "plain.dcm"))
    assert np.array_equal(decoded.pixels[..., 0], np.rint(STORED / 4095 * 255).astype(np.uint8))
    ranged = decode(tmp_path / "plain.dcm", DecodeOptions(value_range=(-1024, 976)))
    assert np.array_equal(ranged.pixels[..., 0], np.rint(np.minimum(STORED / 2000 * 255, 255)).astype(np.uint8))


def test_a_falling_slope_keeps_the_meaning_of_dark(tmp_path: Path) -> None:
    decoded = decode(write(tmp_path / "neg.dcm", RescaleSlope=-1, RescaleIntercept=0))
    assert np.array_equal(decoded.pixels[..., 0], 255 - np.rint(STORED / 4095 * 255).astype(np.uint8))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    dark = decode(write(tmp_path / "one.dcm", PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(dark.pixels[..., 0], 255 - np.rint(STORED / 4095 * 255).astype(np.uint8))
    assert "DICOM MONOCHROME1 inverted" in dark.conversions


def test_header_without_pixels(tmp_path: Path) -> None:
    header = probe(write(tmp_path / "h.dcm", PixelSpacing=[0.7, 0.7]))
    assert (header.height, header.width, header.channels, header.patient) == (12, 16, 1, "MRN 4711")
    assert header.pixel_size_um == pytest.approx(700)


def test_faults_are_named(tmp_path: Path) -> None:
    write(tmp_path / "frames.dcm", np.stack([STORED, STORED]).reshape(24, 16), Rows=12, NumberOfFrames=2)
    with pytest.raises(MedcoreError, match=r"frames\.dcm.*2 frames"):
        decode(tmp_path / "frames.dcm")
    (tmp_path / "text.dcm").write_text("no image")
    with pytest.raises(MedcoreError, match=r"text\.dcm.*not a readable DICOM"):
        decode(tmp_path / "text.dcm")
    whole = write(tmp_path / "cut.dcm")
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(MedcoreError, match=r"cut\.dcm"):
        decode(whole)
    with pytest.raises(MedcoreError, match=r"big\.dcm.*more than"):
        decode(write(tmp_path / "big.dcm"), DecodeOptions(max_pixels=100))


def test_a_folder_of_dicom_is_grouped_by_patient_without_telling_who(tmp_path: Path, tmp_data: Path) -> None:
    for number in range(4):
        write(tmp_path / "ct" / ("ill" if number % 2 else "well") / f"{number}.dcm", PatientID=f"MRN {number // 2}")
    patches = read_set(tmp_path / "ct", progress=False, window=(40, 400))
    assert patches.shape == (12, 16, 1)
    assert sorted(patches.patients) == ["patient-0001"] * 2 + ["patient-0002"] * 2
    assert patches.card.patients_known and not any("MRN" in str(value) for value in patches.table.to_numpy().ravel())
    assert patches.card.conversions == {"DICOM window 40/400 (given)": 4}


def test_a_metadata_csv_of_dicom_files_takes_their_patients_unless_it_names_its_own(
    tmp_path: Path, tmp_data: Path
) -> None:
    for number in range(3):
        write(tmp_path / f"ct/{number}.dcm", PatientID="A" if number else "B")
    (tmp_path / "ct/metadata.csv").write_text("image,label\n0.dcm,a\n1.dcm,b\n2.dcm,a\n")
    assert read_set(tmp_path / "ct", progress=False).patients.tolist() == [
        "patient-0002",
        "patient-0001",
        "patient-0001",
    ]
    (tmp_path / "ct/metadata.csv").write_text("image,label,patient\n0.dcm,a,X\n1.dcm,b,Y\n2.dcm,a,X\n")
    assert read_set(tmp_path / "ct", progress=False).patients.tolist() == ["X", "Y", "X"]
    write(tmp_path / "ct/1.dcm", PatientID="")
    (tmp_path / "ct/metadata.csv").write_text("image,label\n0.dcm,a\n1.dcm,b\n2.dcm,a\n")
    anonymous = read_set(tmp_path / "ct", progress=False).card
    assert not anonymous.patients_known
    assert any("1 of 3 DICOM files name no patient" in text for text in anonymous.warnings)
    assert any("NO PATIENT INFORMATION" in text for text in anonymous.warnings)


def test_ct_slices_are_learnt_predicted_and_their_window_is_stated(tmp_path: Path, tmp_data: Path) -> None:
    """From a folder of DICOM files to answers about new ones, with the training's window applied to both."""
    from click.testing import CliRunner

    import medcore
    from medcore.cli import cli

    rng = np.random.default_rng(0)
    for number in range(24):
        ill = number % 2
        slice_ = rng.integers(1000, 1100, (32, 32)).astype(np.uint16)
        slice_[8:20, 8:20] += 150 * ill
        write(tmp_path / f"ct/{'ill' if ill else 'well'}/{number}.dcm", slice_, PatientID=f"MRN {number}")
    out = tmp_path / "run"
    arguments = ["train", "classifier", "--data", str(tmp_path / "ct"), "--out", str(out), "--window", "60", "300"]
    done = CliRunner().invoke(cli, [*arguments, "--epochs", "6", "--batch-size", "8", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    predictor = medcore.load(out)
    files = sorted((tmp_path / "ct").rglob("*.dcm"))
    assert predictor.temperature != 1 and predictor.manifest["preprocessing"]["window"] == [60, 300]
    (answers,) = list(predictor.predict(files))
    pixels = np.stack([decode(file, DecodeOptions(window=(60, 300))).pixels for file in files])
    (expected,) = list(predictor.predict(pixels))
    assert np.allclose(answers.probabilities, expected.probabilities, atol=1e-6)
