"""The loader: every sample once, the same bits whatever the threads, modes, pieces and processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_toys import EVERYTHING, toy_set

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.training import batches as module
from medcore.training.augment.apply import augment_images
from medcore.training.augment.recipe import Augment
from medcore.training.batches import Batch, Batches, plan_pieces, read_ahead, suitable_size

CPU = torch.device("cpu")


def epoch_of(patches: PatchSet, number: int = 1, augment: Augment | None = None, **options: object) -> list[Batch]:
    values: dict = {"batch_size": 7, "shuffle": True, "seed": 3} | options
    return list(Batches(patches, values.pop("batch_size"), CPU, **values).epoch(number, augment))


def by_id(found: list[Batch]) -> dict[int, torch.Tensor]:
    return {int(row): image for batch in found for row, image in zip(batch.ids, batch.images, strict=True)}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 5), st.integers(1, 4))
def test_a_plan_deals_every_sample_once(count: int, batch_size: int, pieces: int, world: int) -> None:
    order = torch.randperm(count)
    try:
        plans = [plan_pieces(order, batch_size, pieces=pieces, rank=rank, world=world) for rank in range(world)]
    except MedcoreError:
        assert count < world or -(-count // batch_size) > count // world
        return
    assert sorted(row for one in plans for piece in one for row in piece.rows.tolist()) == list(range(count))
    closing = [sum(piece.closes_step for piece in one) for one in plans]
    assert set(closing) == {-(-count // batch_size)}  # all processes step equally often
    # averaged over processes and summed over pieces, the weights of a step make a mean over its samples
    for one in plans:
        assert one[-1].closes_step
    total = sum(piece.weight for one in plans for piece in one) / world
    assert total == pytest.approx(closing[0])


def test_weights_make_the_mean_over_a_step() -> None:
    values = torch.rand(11)
    plans = [plan_pieces(torch.arange(11), 11, pieces=2, rank=rank, world=3) for rank in range(3)]
    summed = [sum(values[piece.rows].mean() * piece.weight for piece in one) for one in plans]
    assert torch.allclose(torch.stack(summed).mean(), values.mean())  # type: ignore[arg-type]


def test_steps_are_of_equal_size() -> None:
    sizes = [len(piece.rows) for piece in plan_pieces(torch.arange(65), 64)]
    assert sizes == [33, 32]  # not 64 and one stray image, on which batch norm would fail


def test_a_step_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(MedcoreError, match="a step of 2 images cannot serve 3 processes"):
        plan_pieces(torch.arange(2), 8, world=3)


def test_images_labels_and_masks_belong_together() -> None:
    patches = toy_set(masks=True)
    for batch in epoch_of(patches):
        rows = batch.ids.numpy()
        assert np.array_equal((batch.images * 255).round().permute(0, 2, 3, 1).numpy(), patches.store[rows])
        assert np.array_equal(batch.labels.numpy(), patches.labels[rows])
        assert batch.masks is not None and patches.mask_store is not None
        assert batch.masks.dtype == torch.int64
        assert np.array_equal(batch.masks.numpy(), patches.mask_store[rows])


def test_ids_are_rows_of_the_store_also_in_a_view() -> None:
    view = toy_set().where(split="val")
    found = by_id(epoch_of(view, augment=EVERYTHING))
    assert sorted(found) == sorted(view.index.tolist())
    whole = by_id(epoch_of(toy_set(), augment=EVERYTHING))
    assert all(torch.allclose(image, whole[row], atol=1e-6) for row, image in found.items())  # same sample, same draws


@pytest.mark.parametrize("options", [{"loader": "stream"}, {"loader": "stream", "threads": 3}, {"threads": 2}])
def test_modes_and_threads_give_the_same_bits(tmp_path: Path, options: dict) -> None:
    patches = toy_set(masks=True).save(tmp_path / "set.npz").where(split="train")
    expected = epoch_of(patches, 2, EVERYTHING, loader="memory")
    found = epoch_of(patches, 2, EVERYTHING, **options)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.ids, other.ids) and torch.equal(one.images, other.images)
        assert one.masks is not None and other.masks is not None and torch.equal(one.masks, other.masks)


def test_batch_size_pieces_and_processes_do_not_change_a_sample() -> None:
    patches = toy_set()
    expected = by_id(epoch_of(patches, 2, EVERYTHING))
    for options in ({"batch_size": 20}, {"pieces": 3}, {"world": 2, "rank": 1, "batch_size": 12}):
        for row, image in by_id(epoch_of(patches, 2, EVERYTHING, **options)).items():
            assert torch.allclose(image, expected[row], atol=1e-6)


def test_order_changes_by_epoch_and_seed_and_stays_without_shuffle() -> None:
    patches = toy_set()

    def order(number: int = 1, **options: object) -> list[int]:
        return [int(row) for batch in epoch_of(patches, number, **options) for row in batch.ids]

    assert order() == order() != order(2)
    assert order(seed=4) != order()
    assert order(shuffle=False) == list(range(60))


def test_pixels_stay_on_the_device_only_when_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = toy_set()
    needed = 60 * 8 * 8 * 3
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * needed)
    assert Batches(patches, 8, CPU, memory_share=0.5).in_memory
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * needed - 2)
    assert not Batches(patches, 8, CPU, memory_share=0.5).in_memory
    assert Batches(patches, 8, CPU, memory_share=0.5, loader="memory").in_memory
    assert not Batches(patches, 8, CPU, memory_share=1.0, loader="stream").in_memory


def test_images_made_by_a_transpose_lie_row_by_row_in_memory() -> None:
    """Picking rows of a strided stack copies byte by byte, many times slower than whole images."""
    patches = toy_set(masks=True)
    turned = np.ascontiguousarray(patches.store.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    table = {"label": patches.labels, "patient": patches.patients, "split": patches.splits}
    strided = PatchSet.from_arrays(turned, table, patches.card)
    held = Batches(strided, 8, CPU, loader="memory")._images
    assert held.is_contiguous() and np.array_equal(held.numpy(), patches.store)


def test_crops_stay_inside_of_the_size_that_the_table_states() -> None:
    patches = toy_set(count=40)
    patches.store[:, 6:] = 255
    patches.store[:, :, 5:] = 255
    patches = patches.with_columns(height=np.full(40, 6), width=np.full(40, 5))
    found = epoch_of(patches, augment=Augment(crop=4))
    assert max(float(batch.images.max()) for batch in found) < 1
    assert {batch.images.shape[2:] for batch in found} == {(4, 4)}


def test_crops_stay_inside_of_the_array_when_the_table_tells_of_larger_originals() -> None:
    patches = toy_set(count=40).with_columns(height=np.full(40, 900), width=np.full(40, 5))
    corners = [batch.images for batch in epoch_of(patches, augment=Augment(crop=4))]
    assert {images.shape[2:] for images in corners} == {(4, 4)}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("loader", ["memory", "stream"])
@pytest.mark.parametrize(("cores", "maker"), [(3, ("medcore-loader", 1)), (2, ("MainThread", 2))])
def test_batches_are_made_on_idle_cores_and_by_the_step_itself_where_there_are_none(
    tmp_path: Path, loader: str, cores: int, maker: tuple, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = set(), module.apply_chosen

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.add((threading.current_thread().name[:14], torch.get_num_threads()))
        return real(*arguments, **options)

    monkeypatch.setattr(module, "apply_chosen", watched)
    monkeypatch.setattr(module, "available_cores", lambda: cores)
    epoch_of(toy_set().save(tmp_path / "set.npz"), augment=EVERYTHING, loader=loader)
    assert seen == {maker}
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), fresh) == (2, [2])  # neither the caller nor later threads notice


@pytest.mark.parametrize("side", [8, 64])
def test_idle_cores_change_no_bit(
    tmp_path: Path, side: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches, found = toy_set(side=side, masks=True), {}
    recipe = Augment(
        flip_horizontal=0.5, turns=True, rotation=9, elastic=1, stain=0.2, contrast=0.2, hue=0.1, blur=1, noise=0.1
    )
    for cores in (2, 3):  # with 64 pixels, the kernels on two threads really share the work
        monkeypatch.setattr(module, "available_cores", lambda cores=cores: cores)
        found[cores] = epoch_of(patches, 2, recipe, batch_size=30)
    for one, other in zip(found[2], found[3], strict=True):
        assert torch.equal(one.images, other.images)
        assert one.masks is not None and other.masks is not None and torch.equal(one.masks, other.masks)


def test_an_epoch_may_be_left_in_the_middle(tmp_path: Path) -> None:
    patches = toy_set().save(tmp_path / "set.npz")
    loader = Batches(patches, 5, CPU, loader="stream", threads=2)
    for _ in loader.epoch(1):
        break
    assert sum(len(batch) for batch in loader.epoch(1)) == 60


def test_an_error_while_reading_reaches_the_loop() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise OSError("the disk is gone")
        return item

    with pytest.raises(OSError, match="the disk is gone"):
        list(read_ahead(read, range(10), threads=2))
    assert list(read_ahead(lambda item: item * 2, range(20), threads=3)) == list(range(0, 40, 2))


def test_no_images_are_refused() -> None:
    with pytest.raises(MedcoreError, match="set 'toy': there are no images"):
        Batches(toy_set().select([]), 4, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_gpu_batches_hold_the_same_pixels(tmp_path: Path, loader: str) -> None:
    patches = toy_set(masks=True).save(tmp_path / "set.npz")
    there = list(Batches(patches, 7, torch.device("cuda"), seed=3, shuffle=True, loader=loader).epoch(1))
    for one, other in zip(epoch_of(patches), there, strict=True):
        assert other.images.is_cuda and torch.equal(one.images, other.images.cpu())
        assert one.masks is not None and other.masks is not None and torch.equal(one.masks, other.masks.cpu())
        assert torch.equal(one.labels, other.labels.cpu())


@pytest.mark.parametrize(
    ("images", "size"), [(1, 8), (103, 8), (191, 8), (192, 16), (500, 32), (768, 64), (100_000, 64)]
)
def test_few_images_get_small_batches(images: int, size: int) -> None:
    assert suitable_size(images) == size
    assert images < 96 or size == 64 or 12 <= images / size < 24


def test_what_is_drawn_for_many_batches_at_once_is_what_each_would_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, recipe = toy_set(masks=True), EVERYTHING
    monkeypatch.setattr(module, "DRAWN_TOGETHER", 7)
    batches = epoch_of(patches, 3, recipe, batch_size=4)
    assert module.together([4, 4, 3, 4, 1], 7) == [(0, 2), (2, 4), (4, 5)]
    for batch in batches:
        rows = batch.ids.numpy()
        pixels, masks = torch.from_numpy(patches.store[rows]), torch.from_numpy(patches.mask_store[rows])
        images, masks = augment_images(recipe, pixels, masks, batch.ids, seed=3, epoch=3)
        assert torch.allclose(batch.images, images, atol=1e-6) and torch.equal(batch.masks, masks.long())
