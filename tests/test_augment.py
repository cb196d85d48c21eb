"""Augmentation against independent implementations: numpy, torchvision, kornia, scipy and float64 by hand."""

from __future__ import annotations

import math

import kornia
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from medcore.data.card import Card
from medcore.errors import MedcoreError
from medcore.training.augment import colour, geometry
from medcore.training.augment.apply import augment_images, augmented_examples, to_float
from medcore.training.augment.recipe import PRESETS, REASONS, Augment, Draws, as_augment, suitable_recipe
from medcore.training.randomness import AUGMENT, keys

ALL = Augment(
    flip_horizontal=0.5,
    flip_vertical=0.5,
    turns=True,
    rotation=30,
    scale=(0.8, 1.3),
    shift=0.1,
    elastic=2,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.1,
    stain=0.2,
    blur=1.5,
    noise=0.1,
)


@pytest.fixture(autouse=True)
def _torch_seed() -> None:
    torch.manual_seed(0)


def pixels(count: int = 6, height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def images_of(count: int = 6, side: int = 16) -> Tensor:
    return to_float(pixels(count, side, side)).contiguous()


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def changed_colours(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, angle: Tensor) -> Tensor:
    return colour.mix_colours(images, *colour.colour_change(brightness, contrast, saturation, angle, images.shape[1]))


class Fixed(Draws):
    """Draws that are given by name, the same for each sample."""

    def __init__(self, count: int, **values: float) -> None:
        table = torch.full((count, len(self.NAMES)), 0.5)
        for name, value in values.items():
            table[:, self.NAMES.index(name)] = value
        self.host = self.device_values = table


def test_every_single_change_alone_changes_images() -> None:
    """No field is without effect; and nothing happens without one."""
    stored, ids = pixels(8), torch.arange(8)
    plain, _ = augment_images(Augment(), stored, None, ids, seed=0, epoch=1)
    assert torch.equal(plain, to_float(stored))
    alone = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "turns": True, "crop": 9, "rotation": 20.0}
    alone |= {"scale": (1.2, 1.4), "shift": 0.2, "elastic": 3.0, "brightness": 0.3, "contrast": 0.3}
    alone |= {"saturation": 0.3, "hue": 0.2, "stain": 0.3, "blur": 2.0, "noise": 0.2}
    for name, value in alone.items():
        changed, _ = augment_images(Augment(**{name: value}), stored, None, ids, seed=0, epoch=1)
        assert changed.shape != plain.shape or not torch.equal(changed, plain), name
        assert changed.min() >= 0 and changed.max() <= 1 and torch.isfinite(changed).all()


def test_a_sample_is_changed_alike_in_any_batch() -> None:
    stored, ids = pixels(10), torch.arange(100, 110)
    masks = stored[..., 0] // 100
    whole, whole_masks = augment_images(ALL, stored, masks, ids, seed=1, epoch=2)
    rows = torch.tensor([7, 2, 9])
    some, some_masks = augment_images(ALL, stored[rows], masks[rows], ids[rows], seed=1, epoch=2)
    assert torch.allclose(some, whole[rows], atol=1e-6)
    assert torch.equal(some_masks, whole_masks[rows])
    other, _ = augment_images(ALL, stored, masks, ids, seed=1, epoch=3)
    assert not torch.allclose(other, whole, atol=0.01)


def test_chunks_give_the_bits_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcore.training.augment import apply as augment

    stored, ids = pixels(7), torch.arange(7)
    whole, _ = augment_images(ALL, stored, None, ids, seed=1, epoch=2)
    monkeypatch.setattr(augment, "CACHED_PIXELS", 2 * 256)
    chunked, _ = augment_images(ALL, stored, None, ids, seed=1, epoch=2)
    assert torch.allclose(whole, chunked, atol=1e-6)


# ---- geometry


def test_the_eight_symmetries_are_those_of_numpy() -> None:
    stack = torch.arange(3 * 16).reshape(3, 4, 4)
    array = stack.numpy()
    for element in range(8):
        expected = array.transpose(0, 2, 1) if element & 4 else array
        expected = expected[:, :, ::-1] if element & 1 else expected
        expected = expected[:, ::-1] if element & 2 else expected
        for rows in (3, 40):
            many = stack[:1].repeat(rows, 1, 1)
            result = geometry.dihedral(many, torch.full((rows,), element))
            assert np.array_equal(result[rows - 1].numpy(), expected[0])


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_flips_come_before_quarter_turns(quarter: int, flips: tuple[bool, bool]) -> None:
    recipe = Augment(flip_horizontal=1.0 * flips[0], flip_vertical=1.0 * flips[1], turns=True)
    draws = Fixed(1, turns=quarter / 4 + 0.01)
    image = torch.arange(9).reshape(1, 3, 3)
    expected = image[0].numpy()
    expected = expected[:, ::-1] if flips[0] else expected
    expected = np.rot90(expected[::-1] if flips[1] else expected, quarter)
    elements = geometry.dihedral_elements(recipe, True, draws)
    assert np.array_equal(geometry.dihedral(image, elements)[0].numpy(), expected)


def test_turns_keep_the_shape_of_oblong_images() -> None:
    stored = pixels(12, 10, 14)
    changed, _ = augment_images(Augment(turns=True), stored, None, torch.arange(12), seed=0, epoch=1)
    plain = to_float(stored)
    turned = [torch.equal(a, b.flip(1, 2)) for a, b in zip(changed, plain, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(changed, plain, strict=True)]
    assert all(a or b for a, b in zip(turned, same, strict=True)) and any(turned) and any(same)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("angle", [-30.0, 10.0, 90.0])
def test_rotation_and_scale_are_kornias(size: tuple[int, int], angle: float) -> None:
    images = torch.rand(2, 3, *size)
    recipe = Augment(rotation=180, scale=(0.5, 2.0))
    zoom = 1.3
    draws = Fixed(2, rotation=(angle / 180 + 1) / 2, scale=(zoom - 0.5) / 1.5)
    ours, _ = geometry.warp(images, None, geometry.affine_of(recipe, draws, *size), None)
    centre = torch.tensor([[(size[1] - 1) / 2, (size[0] - 1) / 2]]).repeat(2, 1)
    matrix = kornia.geometry.get_rotation_matrix2d(centre, torch.full((2,), angle), torch.full((2, 2), zoom))
    theirs = kornia.geometry.warp_affine(images, matrix, size, padding_mode="reflection", align_corners=False)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert torch.allclose(ours[inside], theirs[inside], atol=2e-4)


def test_rotation_by_a_quarter_is_exact() -> None:
    images = torch.rand(1, 3, 8, 8)
    affine = geometry.affine_of(Augment(rotation=90), Fixed(1, rotation=1.0), 8, 8)
    ours, _ = geometry.warp(images, None, affine, None)
    assert torch.allclose(ours, torch.rot90(images, 1, (2, 3)), atol=1e-5)


def test_shift_moves_by_a_share_of_the_side() -> None:
    images = torch.rand(1, 1, 10, 20)
    draws = Fixed(1, shift_x=1.0, shift_y=0.0)  # right by 0.1 × 20, up by 0.1 × 10
    moved, _ = geometry.warp(images, None, geometry.affine_of(Augment(shift=0.1), draws, 10, 20), None)
    assert torch.allclose(moved[0, 0, :-1, 2:], images[0, 0, 1:, :-2], atol=1e-5)


def test_elastic_field_is_smooth_small_and_zero_in_the_middle_of_its_draws() -> None:
    still = geometry.elastic_nodes(torch.full((1, 50), 0.5), 4.0, 30, 40)
    assert still.abs().max() < 1e-6
    nodes = geometry.elastic_nodes(torch.rand(5, 50), 4.0, 30, 40)
    in_pixels = nodes * torch.tensor([40, 30])[:, None, None] / 2
    assert 3 < in_pixels.abs().max() <= 4
    ramp = torch.arange(40.0).expand(5, 1, 30, 40).contiguous()  # each pixel tells where it comes from
    straight = torch.eye(2, 3).repeat(5, 1, 1)
    moved, _ = geometry.warp(ramp, None, straight, nodes)
    inside = (moved - ramp)[:, 0, 6:-6, 6:-6]
    assert 1 < inside.abs().max() < 4 * 1.5  # cubic curves overshoot their nodes a little
    assert (inside[:, 1:] - inside[:, :-1]).abs().max() < 2  # 8 pixels over a node distance of 7


@pytest.mark.parametrize("size", [(7, 9), (16, 16)])
def test_sampling_grid_is_torchs(size: tuple[int, int]) -> None:
    affine = torch.randn(3, 2, 3)
    theirs = torch.nn.functional.affine_grid(affine, [3, 1, *size], align_corners=False)
    assert torch.allclose(geometry.sampling_grid(affine, *size), theirs, atol=1e-5)


def test_masks_follow_their_images() -> None:
    """A mask that is a threshold of the image stays one, up to pixels between two classes."""
    ramp = torch.arange(32).repeat(32, 1) * 8
    stored = ramp[None, :, :, None].repeat(5, 1, 1, 3).to(torch.uint8)
    masks = (stored[..., 0] >= 128).to(torch.uint8)
    recipe = Augment(flip_horizontal=0.5, turns=True, rotation=40, scale=(0.8, 1.2), shift=0.1, elastic=2)
    images, moved = augment_images(recipe, stored, masks, torch.arange(5), seed=0, epoch=1)
    assert moved is not None and moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) == {0, 1}
    agree = (images[:, 0] >= 124 / 255) == moved.bool()
    assert agree.float().mean() > 0.97
    assert not torch.equal(moved, masks)


def test_masks_keep_their_classes_and_the_ignored_value() -> None:
    masks = torch.randint(0, 3, (4, 16, 16), dtype=torch.uint8)
    masks[:, 10:] = 255
    _, moved = augment_images(ALL, pixels(4), masks, torch.arange(4), seed=0, epoch=1)
    assert set(moved.unique().tolist()) <= {0, 1, 2, 255}


def test_crops_are_windows_and_masks_are_cut_alike() -> None:
    stored = pixels(20, 12, 15)
    masks = stored[..., 1]
    images, cut = augment_images(Augment(crop=6), stored, masks, torch.arange(20), seed=0, epoch=1)
    assert images.shape == (20, 3, 6, 6)
    assert torch.equal((images[:, 1] * 255).round().to(torch.uint8), cut)
    corners = set()
    for image, original in zip(images, to_float(stored), strict=True):
        places = [(y, x) for y in range(7) for x in range(10) if torch.equal(original[:, y : y + 6, x : x + 6], image)]
        assert len(places) == 1
        corners.add(places[0])
    assert len(corners) > 10


def test_crops_stay_inside_of_padded_images() -> None:
    stored = torch.zeros(50, 12, 12, 1, dtype=torch.uint8)
    stored[:, 8:] = 255  # padding
    stored[:, :, 9:] = 255
    sizes = torch.tensor([[8, 9]]).repeat(50, 1)
    images, _ = augment_images(Augment(crop=5), stored, None, torch.arange(50), seed=0, epoch=1, sizes=sizes)
    assert images.max() == 0
    images, _ = augment_images(Augment(crop=5), stored, None, torch.arange(50), seed=0, epoch=1)
    assert images.max() == 1


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(MedcoreError, match=r"crop=20.*16×16"):
        augment_images(Augment(crop=20), pixels(), None, torch.arange(6), seed=0, epoch=1)


# ---- colour


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_colours_are_torchvisions(name: str, factor: float) -> None:
    images = images_of() * 0.5 + 0.2  # nothing clips
    one, zero = torch.ones(6), torch.zeros(6)
    amounts = {"brightness": one, "contrast": one, "saturation": one} | {name: one * factor}
    ours = changed_colours(images, **amounts, angle=zero)
    theirs = getattr(tv, f"adjust_{name}")(images, factor)
    assert torch.allclose(ours, theirs, atol=2e-3)  # torchvision rounds its grey weights


def test_colours_are_torchvisions_one_after_the_other() -> None:
    images = images_of() * 0.4 + 0.3
    one = torch.ones(6)
    ours = changed_colours(images, one * 1.1, one * 0.8, one * 1.2, one * 0)
    theirs = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(images, 1.1), 0.8), 1.2)
    assert torch.allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("side", [16, 600])  # one chunk of images, and a chunk for each
def test_a_recipe_of_flips_and_colours_is_torchvisions_per_image(side: int) -> None:
    stored, ids = pixels(3, side, side), torch.tensor([4, 8, 15])
    recipe = Augment(flip_horizontal=0.5, flip_vertical=0.5, brightness=0.3, contrast=0.3, saturation=0.3)
    ours, _ = augment_images(recipe, stored, None, ids, seed=2, epoch=5)
    draws = Draws(keys(ids, 2, 5, AUGMENT), torch.device("cpu"))
    for row, image in enumerate(to_float(stored)):
        for name, flip in (("flip_horizontal", tv.horizontal_flip), ("flip_vertical", tv.vertical_flip)):
            image = flip(image) if draws[name][row] < 0.5 else image
        brightness, contrast, saturation = (
            float(draws.around(name, 0.3)[row]) for name in ("brightness", "contrast", "saturation")
        )
        image = image * brightness  # torchvision clips after each change, ours at the end
        image = contrast * image + (1 - contrast) * tv.rgb_to_grayscale(image).mean()
        image = saturation * image + (1 - saturation) * tv.rgb_to_grayscale(image)
        assert torch.allclose(ours[row], image.clamp(0, 1), atol=2e-3)


def test_saturation_is_kornias_up_to_their_colour_space() -> None:
    grey = images_of().mean(1, keepdim=True).repeat(1, 3, 1, 1)
    one = torch.ones(6)
    ours = changed_colours(grey, one, one, one * 1.5, one)  # grey has no saturation and no hue
    assert torch.allclose(ours, grey, atol=1e-5)
    assert torch.allclose(kornia.enhance.adjust_saturation(grey, 1.5), grey, atol=1e-5)


def test_brightness_is_kornias() -> None:
    images, factors = images_of() * 0.5, column([0.5, 0.8, 1.0, 1.1, 1.5, 2.0])
    one = torch.ones(6)
    ours = changed_colours(images, factors, one, one, one * 0)
    assert torch.allclose(ours, kornia.enhance.adjust_brightness_accumulative(images, factors), atol=1e-5)


def test_a_third_of_a_hue_turn_makes_red_green_and_green_blue() -> None:
    images = images_of()
    one = torch.ones(6)
    turned = changed_colours(images, one, one, one, one * (2 * math.pi / 3))
    assert torch.allclose(turned, images[:, [2, 0, 1]], atol=1e-5)
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert torch.allclose(
        changed_colours(red, one[:1], one[:1], one[:1], one[:1] * (2 * math.pi / 3)).flatten(),
        torch.tensor([0.0, 1, 0]),
        atol=1e-6,
    )


def test_hue_turns_colours_the_way_hsv_does() -> None:
    """HSV (kornia) keeps each pixel's largest value, ours its mean; the direction of the colour is alike."""
    images, one = images_of(), torch.ones(6)
    ours = changed_colours(images, one, one, one, one * 0.6)
    theirs = kornia.enhance.adjust_hue(images, 0.6)
    ours, theirs, before = (some - some.mean(1, keepdim=True) for some in (ours, theirs, images))
    alike = torch.cosine_similarity(ours, theirs, dim=1).mean()
    assert alike > 0.98 > torch.cosine_similarity(before, theirs, dim=1).mean() + 0.1


@pytest.mark.parametrize("stains", ["he", "hdab"])
def test_stain_jitter_against_float64_by_hand(stains: str) -> None:
    images = images_of(3) * 0.8 + 0.1
    factors = torch.tensor([[1.2, 0.9, 1.0], [1.0, 1.0, 1.0], [0.8, 1.1, 1.2]])
    shifts = torch.tensor([[0.05, -0.02, 0.0], [0.0, 0.0, 0.0], [-0.03, 0.04, 0.01]])
    ours = colour.mix_density(images, *colour.stain_change(factors, shifts, stains))
    second = (0.072, 0.990, 0.105) if stains == "he" else (0.268, 0.570, 0.776)
    rows = np.array([(0.650, 0.704, 0.286), second], dtype=float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    normal = np.cross(*rows)
    rows = np.vstack([rows, normal / np.linalg.norm(normal)])
    for image, factor, shift, result in zip(images, factors, shifts, ours, strict=True):
        density = -np.log(image.permute(1, 2, 0).numpy().astype(float))
        amounts = np.linalg.solve(rows.T, density.reshape(-1, 3).T).T * factor.numpy() + shift.numpy()
        expected = np.exp(-amounts @ rows).reshape(16, 16, 3)
        assert np.allclose(result.permute(1, 2, 0).numpy(), expected, atol=1e-4)
    assert torch.allclose(ours[1], images[1], atol=1e-5)


def test_stain_jitter_survives_black_and_keeps_white_near_white() -> None:
    stored = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    stored[2:] = 255
    images, _ = augment_images(Augment(stain=0.2), stored, None, torch.arange(4), seed=0, epoch=1)
    assert torch.isfinite(images).all()
    assert images[2:].min() > 0.9


def test_blur_is_scipys_per_sample() -> None:
    images = images_of(4, 20)
    sigmas, chosen = column([0.5, 1.0, 1.5, 2.0]), torch.tensor([True, True, False, True])
    blurred = colour.blur_some(images, chosen, sigmas, largest=2.0)
    assert torch.equal(blurred[2], images[2])
    for row in (0, 1, 3):
        expected = ndimage.gaussian_filter(
            images[row].numpy().astype(float), (0, float(sigmas[row]), float(sigmas[row])), mode="mirror", radius=6
        )
        assert np.allclose(blurred[row].numpy(), expected, atol=1e-4)


def test_noise_has_its_deviation_and_a_place_of_its_own() -> None:
    grey = torch.full((3, 3, 40, 40), 0.5)
    chosen, deviations = torch.tensor([True, False, True]), column([0.05, 0.1, 0.1])
    noisy = colour.add_noise(grey, chosen, deviations, column([0.1, 0.5, 0.7]), seed=0)
    assert torch.equal(noisy[1], grey[1])
    for row in (0, 2):
        assert noisy[row].std().item() == pytest.approx(float(deviations[row]), rel=0.05)
    assert abs(np.corrcoef(noisy[0].flatten(), noisy[2].flatten())[0, 1]) < 0.05
    assert torch.equal(grey, torch.full_like(grey, 0.5))  # the input stays


def test_shares_and_ranges_are_as_asked() -> None:
    ids = torch.arange(5000)
    draws = Draws(keys(ids, 0, 1, AUGMENT), torch.device("cpu"))
    assert (draws.on_host("noise_share") < 0.3).float().mean().item() == pytest.approx(0.3, abs=0.03)
    values = draws.around("brightness", 0.2)
    assert values.min() >= 0.8 and values.max() <= 1.2 and values.mean().item() == pytest.approx(1.0, abs=0.01)


# ---- recipes


def test_grey_images_take_what_makes_sense() -> None:
    stored = pixels(4, channels=1)
    recipe = Augment(turns=True, rotation=5, brightness=0.2, contrast=0.2, blur=1, noise=0.1)
    images, _ = augment_images(recipe, stored, None, torch.arange(4), seed=0, epoch=1)
    assert images.shape == (4, 1, 16, 16)
    with pytest.raises(MedcoreError, match="need 3 channels; these images have 1"):
        augment_images(Augment(stain=0.1), stored, None, torch.arange(4), seed=0, epoch=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip_horizontal": 2}, "flip_horizontal=2"),
        ({"hue": 0.7}, "hue=0.7"),
        ({"scale": (1.2, 0.8)}, "scale="),
        ({"crop": 0}, "crop=0"),
        ({"stains": "pas"}, "stains='pas'"),
        ({"rotation": -5}, "rotation=-5"),
    ],
)
def test_impossible_recipes_are_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(MedcoreError, match=message):
        Augment(**values)


def test_recipes_by_name_and_from_manifests() -> None:
    for recipe in PRESETS.values():
        if recipe is not None:
            assert as_augment(recipe.to_dict()) == recipe
            assert as_augment(recipe) is recipe
    assert as_augment("none") is None
    with pytest.raises(MedcoreError, match="'flps': unknown; choose one of none, flips"):
        as_augment("flps")
    with pytest.raises(MedcoreError, match="no field 'mosaic'"):
        as_augment({"mosaic": 1})


def test_a_preview_shows_what_the_first_epochs_of_a_run_see() -> None:
    stored = pixels(2)
    shown = augmented_examples("flips", stored.numpy(), count=3, seed=4)
    assert shown.shape == (8, 16, 16, 3) and np.array_equal(shown[[0, 4]], stored.numpy())
    for epoch in (1, 2, 3):
        seen, _ = augment_images(PRESETS["flips"], stored, None, torch.arange(2), seed=4, epoch=epoch)
        assert np.array_equal(shown[[epoch, 4 + epoch]], (seen * 255).round().permute(0, 2, 3, 1).numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gpu_gives_what_the_cpu_gives() -> None:
    stored, ids = pixels(40), torch.arange(40)
    masks = stored[..., 0] // 100
    here, here_masks = augment_images(ALL, stored, masks, ids, seed=1, epoch=2)
    there, there_masks = augment_images(ALL, stored.cuda(), masks.cuda(), ids, seed=1, epoch=2)
    assert torch.allclose(here, there.cpu(), atol=1e-3)
    assert (here_masks == there_masks.cpu()).float().mean() > 0.999


@pytest.mark.parametrize(
    ("card", "channels", "recipe"),
    [
        (Card("chest-xray", group="image"), 1, "xray"),
        (Card("ham10000", group="lesion"), 3, "skin"),
        (Card("my windows", recipe={"reader": "quironhelico"}), 3, "ihc"),
        (Card("idc"), 3, "tissue"),
    ],
)
def test_each_set_gets_the_recipe_that_fits_it(card: Card, channels: int, recipe: str) -> None:
    assert suitable_recipe(card, channels) == recipe
    assert set(REASONS) == set(PRESETS)
