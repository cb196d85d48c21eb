"""DICOM: pixels against pydicom and the standard's formulas, series and frames, what may be told of whom."""

import tracemalloc
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


def test_a_ct_without_a_window_is_shown_at_soft_tissue(tmp_path: Path) -> None:
    decoded = decode(write(tmp_path / "plain.dcm"))
    assert np.array_equal(decoded.pixels[..., 0], windowed(STORED.astype(float) - 1024, 40, 400))
    ranged = decode(tmp_path / "plain.dcm", DecodeOptions(value_range=(-1024, 976)))
    assert np.array_equal(ranged.pixels[..., 0], np.rint(np.minimum(STORED / 2000 * 255, 255)).astype(np.uint8))


@pytest.mark.parametrize("tags", [{"Modality": "MR"}, {"RescaleSlope": None, "RescaleIntercept": None}])
def test_anything_else_without_a_window_is_shown_between_its_percentiles(tmp_path: Path, tags: dict) -> None:
    values = STORED if "RescaleSlope" in tags else STORED.astype(float) - 1024
    low, high = np.percentile(values, [0.5, 99.5])
    decoded = decode(write(tmp_path / "mr.dcm", **tags))
    expected = np.clip(np.rint((values - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    assert np.array_equal(decoded.pixels[..., 0], expected)


def test_few_bits_without_a_window_are_scaled_as_they_are(tmp_path: Path) -> None:
    small = (STORED // 256).astype(np.uint16)
    decoded = decode(write(tmp_path / "few.dcm", small, BitsStored=4, HighBit=3, Modality="US"))
    assert np.array_equal(decoded.pixels[..., 0], small * 17)


def test_a_falling_slope_keeps_the_meaning_of_dark(tmp_path: Path) -> None:
    falling = decode(write(tmp_path / "neg.dcm", RescaleSlope=-1, RescaleIntercept=0, Modality="MR")).pixels
    rising = decode(write(tmp_path / "pos.dcm", RescaleSlope=1, RescaleIntercept=0, Modality="MR")).pixels
    assert np.array_equal(falling, 255 - rising)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    dark = decode(write(tmp_path / "one.dcm", PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(dark.pixels[..., 0], 255 - windowed(STORED.astype(float) - 1024, 40, 400))
    assert "DICOM MONOCHROME1 inverted" in dark.conversions


def test_header_without_pixels(tmp_path: Path) -> None:
    header = probe(write(tmp_path / "h.dcm", PixelSpacing=[0.7, 0.7]))
    assert (header.height, header.width, header.channels, header.patient) == (12, 16, 1, "MRN 4711")
    assert header.pixel_size_um == pytest.approx(700)


def test_faults_are_named(tmp_path: Path) -> None:
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
    names, counts = np.unique(patches.patients, return_counts=True)
    assert len(names) == 2 and counts.tolist() == [2, 2] and patches.card.patients_known
    assert not any(word in str(value) for value in patches.table.to_numpy().ravel() for word in ("MRN", "0.dcm"))
    assert "MRN" not in patches.card.to_json()
    kept = read_set(tmp_path / "ct", progress=False, window=(40, 400), keep_ids=True)
    assert sorted(set(kept.patients)) == ["MRN 0", "MRN 1"] and "ill/1.dcm" in kept.column("source")
    assert patches.card.conversions == {"DICOM window 40/400 (given)": 4}


def test_a_metadata_csv_of_dicom_files_takes_their_patients_unless_it_names_its_own(
    tmp_path: Path, tmp_data: Path
) -> None:
    for number in range(3):
        write(tmp_path / f"ct/{number}.dcm", PatientID="A" if number else "B")
    (tmp_path / "ct/metadata.csv").write_text("image,label\n0.dcm,a\n1.dcm,b\n2.dcm,a\n")
    first, second, third = read_set(tmp_path / "ct", progress=False).patients
    assert first != second == third and first.startswith("patient-")
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


def test_radiographs_of_the_phantom_are_written_and_read_back_as_they_were(tmp_path: Path, tmp_data: Path) -> None:
    from click.testing import CliRunner

    from medcore.cli import cli
    from medcore.data.formats.dicom_export import write_dicoms
    from medcore.data.phantoms import make_crc, make_xray

    patches = make_xray(patients=5, size=48)
    table = write_dicoms(patches, tmp_path / "dicom")
    again = read_set(table, findings=patches.classes, progress=False, keep_ids=True)
    assert np.array_equal(again.take(), patches.take()) and np.array_equal(again.findings, patches.findings)
    for name in ("patient", "site", "projection", "portable", "drain", "line"):
        assert again.column(name).tolist() == patches.column(name).tolist(), name
    assert again.card.pixel_size_um == pytest.approx(patches.card.pixel_size_um, rel=1e-4)
    one = pydicom.dcmread(tmp_path / "dicom" / "000000.dcm")
    assert one.ViewPosition == patches.column("projection")[0] and one.pixel_array.max() > 2**11
    shown = pydicom.pixels.apply_voi_lut(one.pixel_array, one)
    assert np.abs(shown / 4095 * 255 - patches.take([0])[0, ..., 0]).max() < 0.51
    with pytest.raises(MedcoreError, match="not empty"):
        write_dicoms(patches, tmp_path / "dicom")
    with pytest.raises(MedcoreError, match="in colour"):
        write_dicoms(make_crc(patients=1, images_per_patient=2, size=16), tmp_path / "colour")
    saved = patches.save(tmp_path / "set.npz").path
    done = CliRunner().invoke(cli, ["data", "export", str(saved), str(tmp_path / "out"), "--limit", "2"])
    assert done.exit_code == 0 and "--findings cardiomegaly,consolidation" in done.output, done.output
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 2


@pytest.mark.parametrize("how", ["folders", "pattern", "no ending"])
def test_no_name_reaches_a_set_from_paths_or_headers(tmp_path: Path, tmp_data: Path, how: str) -> None:
    secrets = {"PatientName": "DOE^JANE", "PatientBirthDate": "19610203", "InstitutionName": "St Elsewhere",
               "StudyDate": "20240506", "AccessionNumber": "ACC77"}  # fmt: skip
    options = {}
    for number, (name, label) in enumerate((n, c) for n in ("DOE_JANE", "ROE_RICH") for c in ("ill", "well")):
        file = {"folders": f"{name}/{label}/{number}.dcm", "pattern": f"{label}/{name}_19610203_{number}.dcm",
                "no ending": f"{label}/{name}_{number}"}[how]  # fmt: skip
        write(tmp_path / "set" / file, PatientID=f"MRN-{name}", **secrets)
        options = {"layout": "patient/class"} if how == "folders" else {}
        options |= {"patient_pattern": "([A-Z]+_[A-Z]+)_"} if how == "pattern" else {}
    patches = read_set(tmp_path / "set", progress=False, **options)
    told = patches.card.to_json() + patches.table.to_csv() + patches.path.read_bytes().decode("latin-1")
    found = [word for word in ("DOE", "JANE", "ROE", "RICH", "1961", "Elsewhere", "20240506", "ACC77", "MRN")
             if word in told]  # fmt: skip
    assert not found and len(set(patches.patients)) == 2
    kept = read_set(tmp_path / "set", progress=False, keep_ids=True, **options)
    assert any("DOE" in patient for patient in kept.patients)


ATTRIBUTES = {
    "linear": {"WindowCenter": 40, "WindowWidth": 400},
    "exact": {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
    "several": {"WindowCenter": [300, 40], "WindowWidth": [900, 400]},
    "slope": {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 0.5, "RescaleIntercept": -500},
    "width one": {"WindowCenter": 40, "WindowWidth": 1},
    "narrow": {"WindowCenter": 40, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"},
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_windows_are_those_of_pydicom(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "w.dcm", **ATTRIBUTES[name])
    assert np.array_equal(decode(path).pixels[..., 0], oracle(path))


def oracle(path: Path) -> np.ndarray:
    """What pydicom makes of a grey file with a window or table, brought to 0..255."""
    dataset = pydicom.dcmread(path)
    return oracle_of(dataset, dataset.pixel_array)[..., 0]


def oracle_of(dataset: object, values: np.ndarray) -> np.ndarray:
    shown = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(values, dataset), dataset).astype(float)
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "ModalityLUTSequence" in dataset:
        # pydicom spreads a window over slope and intercept even beside a table
        low, high = np.array([0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1]) * 1.0 + float(
            dataset.RescaleIntercept
        )
    else:
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        low, high = ends * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    grey = np.clip(np.rint((shown - low) / (high - low) * 255), 0, 255)[..., None]
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def lut(first: int, bits: int, entries: np.ndarray) -> object:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries.tolist())
    return pydicom.Sequence([item])


def test_tables_are_those_of_pydicom(tmp_path: Path) -> None:
    curve = np.rint(4095 * np.sqrt(np.arange(4096) / 4095)).astype(int)
    plain = {"RescaleSlope": 1, "RescaleIntercept": 0}
    voi = write(tmp_path / "voi.dcm", VOILUTSequence=lut(0, 12, curve), WindowCenter=1, WindowWidth=2, **plain)
    assert np.array_equal(decode(voi).pixels[..., 0], oracle(voi))
    from_100 = write(tmp_path / "first.dcm", VOILUTSequence=lut(100, 12, curve[:2000]), **plain)
    assert np.array_equal(decode(from_100).pixels[..., 0], oracle(from_100))
    modality = write(tmp_path / "mod.dcm", ModalityLUTSequence=lut(0, 16, 4095 - curve), WindowCenter=2000,
                     WindowWidth=4000)  # fmt: skip
    assert np.array_equal(decode(modality).pixels[..., 0], oracle(modality))
    after = write(tmp_path / "after.dcm", VOILUTSequence=lut(-1024, 12, curve))  # the table is of Hounsfield units
    assert np.array_equal(decode(after).pixels[..., 0], np.rint(curve[STORED] / 4095 * 255).astype(np.uint8))


@pytest.mark.parametrize("tags", [
    {"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": "", "WindowWidth": ""},
    {"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": 40}, {"VOILUTSequence": None},
])  # fmt: skip
def test_an_empty_window_is_none(tmp_path: Path, tags: dict) -> None:
    assert np.array_equal(decode(write(tmp_path / "e.dcm", **tags)).pixels, decode(write(tmp_path / "n.dcm")).pixels)


def test_a_second_window_serves_where_the_first_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "second.dcm", WindowCenter=[0, 40], WindowWidth=[0, 400])
    assert np.array_equal(decode(path).pixels[..., 0], windowed(STORED.astype(float) - 1024, 40, 400))


def test_a_narrow_linear_window_is_taken_exactly(tmp_path: Path) -> None:
    path = write(tmp_path / "n.dcm", RescaleSlope="0.0003", RescaleIntercept=0, WindowCenter="0.3", WindowWidth="0.08")
    share = (STORED * 0.0003 - 0.3) / 0.08 + 0.5
    assert np.array_equal(decode(path).pixels[..., 0], np.clip(np.rint(share * 255), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("slope", ["0", "nan"])
def test_a_slope_that_is_none_is_a_named_fault(tmp_path: Path, slope: str) -> None:
    path = write(tmp_path / "slope.dcm")
    dataset = pydicom.dcmread(path)
    dataset.RescaleSlope = "0" if slope == "0" else "2"
    dataset.save_as(path)
    if slope == "nan":
        path.write_bytes(path.read_bytes().replace(b"\x28\x00\x53\x10DS\x02\x002 ", b"\x28\x00\x53\x10DS\x04\x00nan "))
    with pytest.raises(MedcoreError, match=r"slope\.dcm.*RescaleSlope"):
        decode(path)


def test_stored_bits_of_any_place_and_sign(tmp_path: Path) -> None:
    window = {"WindowCenter": 40, "WindowWidth": 400}
    plain = decode(write(tmp_path / "plain.dcm", **window)).pixels
    upper = decode(write(tmp_path / "upper.dcm", STORED << 4, HighBit=15, **window)).pixels
    overlay = decode(write(tmp_path / "overlay.dcm", STORED | 0xA000, **window)).pixels
    signed = (STORED.astype(np.int16) - 1024) & 0x0FFF
    below = decode(write(tmp_path / "signed.dcm", signed.astype(np.uint16), PixelRepresentation=1, RescaleIntercept=0,
                         **window)).pixels  # fmt: skip
    assert np.array_equal(plain, upper) and np.array_equal(plain, overlay)
    fits = STORED < 1024 + 2048
    assert np.array_equal(plain[fits], below[fits])


def test_slices_of_different_slopes_share_one_grey_scale(tmp_path: Path, tmp_data: Path) -> None:
    activity = np.arange(32 * 32).reshape(32, 32) * 8
    for number, slope in enumerate((1, 4, 1, 8)):
        write(tmp_path / "pet/a" / f"{number}.dcm", (activity / slope).astype(np.uint16), RescaleSlope=slope,
              RescaleIntercept=0, Modality="PT", BitsStored=16, HighBit=15, PatientID=f"P{number}")  # fmt: skip
    patches = read_set(tmp_path / "pet", classes=["a"], progress=False)
    pixels = patches.take().astype(int)
    assert all(np.abs(image - pixels[0]).max() <= 1 for image in pixels) and pixels.std() > 50
    assert any("no window" in text for text in patches.card.warnings)


def test_prediction_gives_a_series_the_grey_scale_of_the_series(tmp_path: Path, tmp_data: Path) -> None:
    import torch

    from medcore.evaluation.predict import stream_files

    for number in range(6):
        write(tmp_path / "mr/a" / f"{number}.dcm", STORED // (number + 1), Modality="MR", SeriesInstanceUID="1.2")
    patches = read_set(tmp_path / "mr", classes=["a"], progress=False, keep_ids=True)
    files = [tmp_path / "mr" / name for name in patches.column("source")]
    (batch,) = stream_files(torch.nn.Identity(), files, shape=patches.shape, function=lambda images: images)
    assert np.array_equal(batch.pixels, patches.take()) and len(np.unique(patches.take().max(axis=(1, 2)))) > 3


def volume(folder: Path, order: list[int], series: str = "1.2.3") -> None:
    for name, position in enumerate(order):
        slice_ = np.full((12, 16), 1000 + 10 * position, np.uint16)
        slice_[:4] = 100
        write(folder / f"{name}.dcm", slice_, SeriesInstanceUID=series, PatientID="DOE^JANE",
              ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[0, 0, position])  # fmt: skip


def test_slices_come_in_the_order_of_the_geometry_and_a_policy_chooses(tmp_path: Path, tmp_data: Path) -> None:
    volume(tmp_path / "ct/a", [5, 1, 4, 2, 3])
    volume(tmp_path / "ct/b", [2, 1, 3], "9.9.9")
    grey = [int(image[-1, 0, 0]) for image in read_set(tmp_path / "ct", progress=False).take()]
    assert grey[:5] == sorted(grey[:5]) and grey[5:] == sorted(grey[5:]) and len(set(grey)) == 5
    middle = read_set(tmp_path / "ct", progress=False, slices="middle")
    assert [int(image[-1, 0, 0]) for image in middle.take()] == [grey[2], grey[6]]
    second = read_set(tmp_path / "ct", progress=False, slices=2)
    assert [int(image[-1, 0, 0]) for image in second.take()] == [grey[k] for k in (0, 2, 4, 5, 7)]
    with pytest.raises(MedcoreError, match="slices"):
        read_set(tmp_path / "ct", progress=False, slices="first")


def test_frames_become_images_of_one_patient(tmp_path: Path, tmp_data: Path) -> None:
    frames = np.stack([STORED, STORED // 2, STORED // 4])
    for name in "ab":
        path = write(tmp_path / f"us/{name}/film.dcm", frames.reshape(-1, 16), Rows=12, NumberOfFrames=3,
                     WindowCenter=2000, WindowWidth=4000, RescaleIntercept=0, PatientID=f"MRN {name}")  # fmt: skip
    patches = read_set(tmp_path / "us", progress=False)
    assert len(patches) == 6 and len(set(patches.patients)) == 2 and len(set(patches.column("source"))) == 6
    for number, image in enumerate(patches.take()[:3]):
        assert np.array_equal(image[..., 0], windowed(frames[number].astype(float), 2000, 4000))
    assert np.array_equal(decode(path).pixels[..., 0], windowed(frames[1].astype(float), 2000, 4000))
    assert len(read_set(tmp_path / "us", progress=False, slices="middle")) == 2
    assert any("frames" in text for text in patches.card.warnings)


def test_windows_that_differ_within_a_series_are_said(tmp_path: Path, tmp_data: Path) -> None:
    for number in range(3):
        write(tmp_path / f"mr/a/{number}.dcm", SeriesInstanceUID="1.2", WindowCenter=40 + number, WindowWidth=400)
    several = read_set(tmp_path / "mr", classes=["a"], progress=False).card.warnings
    assert any("different windows" in text for text in several)
    one = read_set(tmp_path / "mr", classes=["a"], progress=False, window=(40, 400)).card.warnings
    assert not any("different windows" in text for text in one)


def test_burned_in_text_is_warned_of(tmp_path: Path, tmp_data: Path) -> None:
    write(tmp_path / "us/a/1.dcm", BurnedInAnnotation="YES")
    assert any("burned" in text for text in read_set(tmp_path / "us", classes=["a"], progress=False).card.warnings)


def test_files_without_preamble_and_ending_are_read_by_content(tmp_path: Path) -> None:
    whole = write(tmp_path / "1.2.840.7.3", WindowCenter=40, WindowWidth=400)
    expected = decode(whole).pixels
    content = whole.read_bytes()
    bare = tmp_path / "IM000001"
    bare.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    assert np.array_equal(decode(bare).pixels, expected) and probe(bare).patient == "MRN 4711"
    implicit = pydicom.dcmread(whole)
    implicit.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    implicit.save_as(tmp_path / "x.IMA", implicit_vr=True, little_endian=True)
    assert np.array_equal(decode(tmp_path / "x.IMA").pixels, expected)


def test_a_deflated_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    import zlib

    dataset = pydicom.dcmread(write(tmp_path / "d.dcm", WindowCenter=40, WindowWidth=400))
    expected = decode(tmp_path / "d.dcm").pixels
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm")
    assert np.array_equal(decode(tmp_path / "deflated.dcm").pixels, expected)
    content = (tmp_path / "deflated.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    plain = zlib.decompress(content[start:], -15)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    parts = [content[:start], packer.compress(plain[: plain.index(b"\xe0\x7f\x10\x00")])]
    parts += [packer.compress(bytes(1 << 24)) for _ in range(32)]  # 0.5 GiB
    (tmp_path / "bomb.dcm").write_bytes(b"".join([*parts, packer.flush()]))
    tracemalloc.start()
    try:
        with pytest.raises(MedcoreError, match="bomb"):
            decode(tmp_path / "bomb.dcm", DecodeOptions(max_pixels=10_000))
        probe(tmp_path / "bomb.dcm")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20


def test_a_stream_of_another_size_than_its_attributes_is_refused(tmp_path: Path) -> None:
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    stream = io.BytesIO()
    Image.new("L", (2000, 2000)).save(stream, "JPEG")
    dataset = pydicom.dcmread(
        write(tmp_path / "j.dcm", np.zeros((12, 16), np.uint8), BitsAllocated=8, BitsStored=8, HighBit=7)
    )
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "j.dcm")
    with pytest.raises(MedcoreError, match=r"j\.dcm.*2000"):
        decode(tmp_path / "j.dcm")


READABLE = sorted({path for path in pydicom.data.get_testdata_files() if Path(path).is_file()})


@pytest.mark.parametrize("path", READABLE, ids=[f"{n}-{Path(path).name}" for n, path in enumerate(READABLE)])
@pytest.mark.filterwarnings("ignore")
def test_every_file_of_pydicom_is_read_as_pydicom_reads_it_or_refused_by_name(path: str) -> None:
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        dataset = pydicom.dcmread(path)
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        values = pixel_array(dataset, index=count // 2)
    except Exception:
        with pytest.raises(MedcoreError, match=Path(path).name.replace("+", ".")):
            decode(path)
        return
    decoded = decode(path)
    assert (probe(path).height, probe(path).width, probe(path).channels) == decoded.pixels.shape
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        expected = np.rint(colours / (257 if colours.dtype.itemsize == 2 else 1))
    elif values.ndim == 3:
        expected = values if values.dtype == np.uint8 else np.rint(values / ((2**dataset.BitsStored - 1) / 255))
    elif "WindowWidth" in dataset:
        dataset.RescaleSlope, dataset.RescaleIntercept = (
            dataset.get("RescaleSlope", 1),
            dataset.get("RescaleIntercept", 0),
        )
        expected = oracle_of(dataset, values)
    elif dataset.BitsStored <= 8:
        expected = np.rint(values / (2**dataset.BitsStored - 1) * 255)[..., None]
    else:
        assert len(np.unique(decoded.pixels)) > 6 and any("without window" in text for text in decoded.conversions)
        return
    assert np.array_equal(decoded.pixels, expected)
