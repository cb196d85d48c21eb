"""Prediction: order, equality with the bare model, any batch size, bad files, memory."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation import predict as room
from medcore.evaluation.predict import ahead, auto_batch_size, predict, stream, stream_files
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.classifier import build_classifier
from medcore.models.unet import SmallUNet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_classifier("small_cnn", 3, image_size=16).eval()


@pytest.fixture(scope="module")
def ps():
    images = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), dtype=np.uint8)
    card = Card(name="noise", title="noise", classes=["a", "b", "c"])
    return PatchSet.from_arrays(images, {"label": np.arange(23) % 3}, card)


def by_hand(model, images, temperature=1.0):
    with torch.no_grad():
        logits = model(torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2))
    shifted = np.exp(logits.numpy().astype(np.float64) / temperature)
    return shifted / shifted.sum(1, keepdims=True)


@pytest.mark.parametrize("batch_size", [None, 1, 5, 23, 100])
def test_probabilities_equal_the_bare_model_in_order(model, ps, batch_size):
    found = predict(model.train(), ps, batch_size=batch_size)
    assert found.dtype == np.float32 and not model.training
    np.testing.assert_allclose(found, by_hand(model, ps.take()), atol=1e-5)


def test_a_view_is_predicted_in_its_own_order(model, ps):
    rows = np.array([7, 3, 3, 20])
    np.testing.assert_allclose(predict(model, ps.select(rows)), predict(model, ps)[rows], atol=1e-6)


def test_temperature_divides_the_logits(model, ps):
    np.testing.assert_allclose(predict(model, ps, temperature=2.5), by_hand(model, ps.take(), 2.5), atol=1e-5)
    with pytest.raises(MedcoreError, match="temperature=0"):
        predict(model, ps, temperature=0)


def test_any_function_can_be_streamed(model, ps):
    features = stream(model.features, ps, model=model, batch_size=4)
    assert features.shape == (23, model.head.in_features)
    means = stream(lambda images: images.mean((1, 2, 3)), ps)
    np.testing.assert_allclose(means, ps.take().mean((1, 2, 3)) / 255, atol=1e-6)


def test_segmentation_gives_class_indexes(ps):
    model = SmallUNet(4).eval()
    found = predict(model, ps, batch_size=10)
    assert found.shape == (23, 16, 16) and found.dtype == np.uint8
    images = torch.from_numpy(ps.take([5])).permute(0, 3, 1, 2) / 255
    assert (found[5] == model(images)[0].argmax(0).numpy()).mean() > 0.99  # ties may fall otherwise in another batch


def test_wrong_kinds_are_named(model, ps):
    with pytest.raises(MedcoreError, match="no images"):
        predict(model, ps.select([]))
    with pytest.raises(MedcoreError, match=r"anomaly\.score"):
        predict(ConvAutoencoder(16), ps)


def test_batches_are_halved_when_memory_runs_out(model, ps, monkeypatch):
    sizes = []
    original = room.Place.arrange

    def scarce(self, pixels):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, pixels)

    expected = predict(model, ps)
    monkeypatch.setattr(room.Place, "arrange", scarce)
    np.testing.assert_allclose(predict(model, ps, batch_size=12), expected, atol=1e-6)
    assert max(sizes) == 12 and min(sizes) >= 1
    monkeypatch.setattr(room.Place, "arrange", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(MedcoreError, match="one image of 16x16"):
        predict(model, ps)


def test_batch_size_follows_the_image_size():
    cpu = torch.device("cpu")
    sizes = [auto_batch_size((side, side, 3), cpu) for side in (16, 64, 224, 4096)]
    assert sizes == sorted(sizes, reverse=True) and sizes[1] == 256 and sizes[-1] == 1


def test_reading_ahead_keeps_order_and_reads_only_a_little_more():
    started = []

    def items():
        for number in itertools.count():
            started.append(number)
            yield number

    taken = [item for item, _ in zip(ahead(items(), depth=2), range(5), strict=False)]
    assert taken == [0, 1, 2, 3, 4] and len(started) < 10
    assert list(ahead(iter([]), depth=2)) == []


@pytest.fixture
def files(ps, tmp_path):
    paths = []
    for number, pixels in enumerate(ps.take()):
        paths.append(tmp_path / f"{number:02d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def collect(batches):
    batches = list(batches)
    values = [batch.values for batch in batches if len(batch.paths)]
    paths = [path for batch in batches for path in batch.paths]
    problems = [problem for batch in batches for problem in batch.problems]
    return paths, np.concatenate(values), problems


@pytest.mark.parametrize("workers", [1, 3])
def test_files_in_the_order_given(model, ps, files, workers):
    order = files[::-1]
    paths, values, problems = collect(stream_files(model, order, shape=ps.shape, batch_size=4, workers=workers))
    assert paths == order and problems == []
    np.testing.assert_allclose(values, predict(model, ps)[::-1], atol=1e-6)


def test_bad_files_stop_or_are_listed(model, ps, files, tmp_path):
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(files[0].read_bytes()[:60])
    order = [*files[:3], broken, files[3], missing]
    with pytest.raises(MedcoreError, match=r"broken\.png"):
        collect(stream_files(model, order, shape=ps.shape, batch_size=2))
    paths, values, problems = collect(stream_files(model, order, shape=ps.shape, batch_size=2, on_error="skip"))
    assert paths == files[:4] and len(values) == 4
    assert [path for path, _ in problems] == [broken, missing]
    assert all(path.name in reason for path, reason in problems)
    only_bad = list(stream_files(model, [broken], shape=ps.shape, on_error="skip"))
    assert only_bad[0].paths == [] and len(only_bad[0].problems) == 1


def test_other_sizes_and_channels_are_brought_to_the_models(model, tmp_path):
    Image.fromarray(np.full((40, 20), 200, np.uint8)).save(tmp_path / "grey.png")
    batch = next(iter(stream_files(model, [tmp_path / "grey.png"], shape=(16, 16, 3))))
    assert batch.pixels.shape == (1, 16, 16, 3) and (batch.pixels == 200).all()
    with pytest.raises(MedcoreError, match=r"grey\.png.*larger"):
        list(stream_files(model, [tmp_path / "grey.png"], shape=(16, 16, 3), policy="pad"))


def test_files_are_read_as_they_are_needed(model, ps, files):
    asked = []

    def endless():
        for path in itertools.cycle(files):
            asked.append(path)
            yield path

    batches = stream_files(model, endless(), shape=ps.shape, batch_size=4)
    for _ in range(3):
        next(batches)
    assert len(asked) <= 4 * 7
    batches.close()


@pytest.mark.parametrize("wrong", [{"on_error": "ignore"}, {"policy": "tile"}])
def test_wrong_arguments_are_named(model, files, wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(MedcoreError, match=f"{name}='{value}'"):
        next(stream_files(model, files, shape=(16, 16, 3), **wrong))
