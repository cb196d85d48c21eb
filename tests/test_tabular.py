"""The tabular form of images: written, read back through its reader, matched by name."""

import numpy as np
import pytest
from PIL import Image

from medcore.data.card import Card
from medcore.data.datasets import DERM_CLASSES
from medcore.data.patchset import PatchSet
from medcore.data.readers.hmnist import FILES, published_file, shrunk, tabular_form, write_pixels_csv
from medcore.errors import MedcoreError


def make_set(classes=DERM_CLASSES, channels=3, count=20):
    rng = np.random.default_rng(0)
    table = {
        "label": rng.integers(0, len(classes), count),
        "patient": [f"HAM, {row // 2}" for row in range(count)],
        "image": [f"image {row}" for row in range(count)],
    }
    card = Card("derm", classes=list(classes), group="lesion", patients_known=True)
    return PatchSet.from_arrays(rng.integers(0, 256, (count, 40, 40, channels), dtype=np.uint8), table, card)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_table_is_made_written_and_read_back(channels, tmp_data):
    patches = make_set(channels=channels)
    small, how = tabular_form(patches, "somewhere")
    expected = [Image.fromarray(image.squeeze()).resize((28, 28), Image.Resampling.BICUBIC) for image in patches.take()]
    np.testing.assert_array_equal(small.take(), np.stack(expected).reshape(20, 28, 28, channels))
    assert "the published file is not there" in how and "read back" in how
    assert small.table.equals(patches.table) and small.classes == patches.classes


def test_a_published_table_is_read_and_matched_by_name(tmp_path, tmp_data):
    patches = make_set()
    mark = np.full((20, 28, 28, 3), np.arange(20, dtype=np.uint8)[:, None, None, None])
    write_pixels_csv(PatchSet.from_arrays(mark, patches.table, patches.card), tmp_path)
    some = patches.select([7, 3, 12])
    small, how = tabular_form(some, tmp_path)
    assert how == f"read from the published file {FILES[3]}"
    assert small.take()[:, 0, 0, 0].tolist() == [7, 3, 12]
    other, how = tabular_form(some.with_columns(image=np.array(["a", "b", "c"])), tmp_path)
    assert "holds other images" in how and not np.array_equal(other.take(), small.take())


def test_sets_without_such_a_file_are_only_shrunk(tmp_data):
    small, how = tabular_form(make_set(classes=["a", "b"]))
    assert small.shape == (28, 28, 3) and how.endswith("exists for HAM10000 only")
    assert published_file("", 3) is None


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(MedcoreError, match="images of 40×40"):
        write_pixels_csv(make_set(), tmp_path)
    with pytest.raises(MedcoreError, match="classes"):
        write_pixels_csv(shrunk(make_set(classes=["a", "b"])), tmp_path)
