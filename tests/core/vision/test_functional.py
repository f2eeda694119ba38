"""Transforms with given amounts: against PyTorch's primitives and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import DtypeError, OptionError, ShapeError
from allgrad.vision import transforms as T
from allgrad.vision.transforms import functional as F


@pytest.fixture
def photo() -> np.ndarray:
    """Bytes, (H, W, C)."""
    return np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)


@pytest.fixture
def tensor() -> ag.Tensor:
    """Numbers in [0, 1], (C, H, W)."""
    return ag.from_numpy(np.random.default_rng(1).random((3, 17, 23), dtype=np.float32))


# -- resizing --------------------------------------------------------------------------------------
@pytest.mark.torch
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", "nearest-exact"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(9, 11), (31, 40), (9, 40), (17, 23)])
def test_resize_equals_pytorchs(tensor, mode, antialias, size):
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, np.uint8):
        values = tensor.numpy() if dtype == np.float32 else (tensor.numpy() * 255).astype(dtype)
        x = torch.from_numpy(values)[None].float()
        smooth = mode in ("bilinear", "bicubic")
        options = {"antialias": antialias, "align_corners": False} if smooth else {}
        expected = torch.nn.functional.interpolate(x, size, mode=mode, **options)[0].numpy()
        found = F.resize(ag.from_numpy(values), size, mode, antialias=antialias)
        assert found.numpy().dtype == dtype
        if dtype == np.uint8:  # rounded; bicubic overshoots are cut off
            expected = expected.round().clip(0, 255)
            assert np.abs(found.numpy() - expected).max() <= 1
            assert (found.numpy() != expected).mean() < 0.01
        else:
            np.testing.assert_allclose(found.numpy(), expected, atol=5e-6)


def test_sizes_of_resize(photo, tensor):
    assert F.resize(photo, 8).shape == (8, 10, 3)
    assert F.resize(photo.transpose(1, 0, 2), [8]).shape == (10, 8, 3)
    assert F.resize(photo, 16, max_size=18).shape == (13, 18, 3)
    assert F.resize(photo[..., 0], (4, 5)).shape == (4, 5)
    assert tuple(F.resize(ag.stack([tensor, tensor]), (4, 5)).shape) == (2, 3, 4, 5)
    assert F.resize(photo, 17) is photo or (F.resize(photo, 17) == photo).all()
    full = T.RandomResizedCrop((17, 23), scale=(1, 1), ratio=(23 / 17, 23 / 17))
    assert (full(photo) == photo).all()


def test_random_resized_crop_draws_shares_and_ratios():
    ag.manual_seed(0)
    crop = T.RandomResizedCrop(8, (0.1, 0.4), (0.5, 2))
    places = [crop.window(100, 80, _Uniform()) for _ in range(300)]
    shares = [h * w / 8000 for _, _, h, w in places]
    assert 0.09 < min(shares) < 0.15 < 0.35 < max(shares) < 0.42
    assert {0.48 < w / h < 2.1 for _, _, h, w in places} == {True}
    assert all(y >= 0 and x >= 0 and y + h <= 100 and x + w <= 80 for y, x, h, w in places)
    assert T.RandomResizedCrop(4, (1, 1), (1, 1)).window(100, 40, _Uniform()) == (30, 0, 40, 40)
    assert T.RandomResizedCrop(4, (1, 1), (1, 1)).window(40, 100, _Uniform()) == (0, 30, 40, 40)


class _Uniform:
    rng = np.random.default_rng(0)

    def uniform(self):
        return self.rng.random()

    def integer(self, low, high):
        return int(self.rng.integers(low, high))


# -- affine maps -----------------------------------------------------------------------------------
@pytest.mark.torch
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("angle", "move", "scale", "shear"),
    [(33, (2, -3), 1.3, (10, -5)), (-71, (0, 0), 0.7, (0, 0)), (5, (-4, 1), 1, (-20, 15))],
)
def test_affine_equals_pytorchs_grid_sample(tensor, mode, angle, move, scale, shear):
    """The map is composed here from its parts; PyTorch samples at its inverse."""
    torch = pytest.importorskip("torch")
    turn, sx, sy = (math.radians(v) for v in (angle, *shear))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    along_x = np.array([[1, -math.tan(sx)], [0, 1]])
    along_y = np.array([[1, 0], [-math.tan(sy), 1]])
    forward = scale * rotation @ along_y @ along_x
    height, width = tensor.shape[1:]
    inverse = np.linalg.inv(forward)
    shift = -inverse @ np.array(move, float)
    half = np.array([width / 2, height / 2])
    theta = np.concatenate([inverse * half / half[:, None], (shift / half)[:, None]], axis=1)
    grid = torch.nn.functional.affine_grid(
        torch.tensor(theta)[None].float(), [1, 3, height, width], align_corners=False
    )
    x = torch.from_numpy(tensor.numpy())[None]
    expected = torch.nn.functional.grid_sample(x, grid, mode=mode, align_corners=False)[0].numpy()
    found = F.affine(tensor, angle, move, scale, shear, mode).numpy()
    assert np.isclose(found, expected, atol=1e-4).mean() > 0.99  # but for ties of "nearest"


def test_rotations_by_right_angles(photo):
    for degrees, turns in ((90, 1), (180, 2), (-90, 3)):
        for mode in ("nearest", "bilinear"):
            turned = F.rotate(photo, degrees, mode, expand=True)
            assert (turned == np.rot90(photo, turns)).all()
    assert F.rotate(photo, 30, expand=True).shape == (27, 29, 3)  # as torchvision says
    assert F.rotate(photo, -77, expand=True).shape == (27, 23, 3)
    about = F.rotate(photo, 180, center=(2, 3))  # the corner is turned to (3, 5)
    assert (about[:6, :4] == photo[:6, :4][::-1, ::-1]).all()
    assert (about[6:] == 0).all()
    assert (F.rotate(photo, 180, center=(2, 3), fill=(1, 2, 3))[-1, -1] == (1, 2, 3)).all()


# -- crops and flips -------------------------------------------------------------------------------
def test_crops_and_flips(photo):
    outside = F.crop(photo, -2, 5, 9, 30)
    assert outside.shape == (9, 30, 3)
    assert (outside[2:, :18] == photo[:7, 5:]).all()
    assert not outside[:2].any()
    assert not outside[:, 18:].any()
    assert (F.hflip(photo) == photo[:, ::-1]).all()
    assert (F.vflip(photo) == photo[::-1]).all()
    assert (F.center_crop(photo, 5) == photo[6:11, 9:14]).all()
    assert (F.pad(photo, 2)[2:-2, 2:-2] == photo).all()
    assert (F.resized_crop(photo, 2, 3, 8, 9, (8, 9)) == photo[2:10, 3:12]).all()
    with pytest.raises(OptionError, match="height and width > 0"):
        F.crop(photo, 0, 0, 0, 3)


def test_five_and_ten_crops(photo, tensor):
    upper_left, upper_right, lower_left, lower_right, middle = T.FiveCrop((5, 6))(photo)
    assert (upper_left == photo[:5, :6]).all()
    assert (upper_right == photo[:5, -6:]).all()
    assert (lower_left == photo[-5:, :6]).all()
    assert (lower_right == photo[-5:, -6:]).all()
    assert (middle == F.center_crop(photo, (5, 6))).all()
    crops = T.TenCrop(5)(tensor)
    assert [tuple(c.shape) for c in crops] == [(3, 5, 5)] * 10
    assert (crops[5].numpy() == F.hflip(tensor).numpy()[:, :5, :5]).all()
    assert (T.TenCrop(5, True)(photo)[5] == photo[::-1][:5, :5]).all()
    stacked = T.Compose(
        [T.TenCrop(5), T.Lambda(lambda cs: ag.stack([T.ToTensor()(c) for c in cs]))]
    )
    assert tuple(stacked(photo).shape) == (10, 3, 5, 5)
    with pytest.raises(ShapeError, match="17 x 23, a crop 18 x 18"):
        T.FiveCrop(18)(photo)


def test_erase(tensor):
    erased = F.erase(tensor, 2, 3, 4, 5, 7.0)
    assert (erased[:, 2:6, 3:8] == 7).all()
    assert int((erased == 7).sum()) == 3 * 4 * 5
    assert tensor.max() <= 1
    assert F.erase(tensor, 0, 0, 1, 1, 9.0, inplace=True) is tensor
    assert tensor.max() == 9
    with pytest.raises(IndexError, match="not within"):
        F.erase(tensor, 15, 0, 3, 3, 0.0)
    with pytest.raises(TypeError, match="expected a tensor"):
        F.erase(tensor.numpy(), 0, 0, 1, 1, 0)


# -- colours ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
def test_brightness_contrast_and_saturation_by_their_definitions(tensor, factor):
    x = tensor.numpy()
    grey = 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    for function, other in (
        (F.adjust_brightness, 0.0),
        (F.adjust_contrast, grey.mean()),
        (F.adjust_saturation, grey),
    ):
        expected = np.clip(factor * x + (1 - factor) * other, 0, 1)
        np.testing.assert_allclose(function(tensor, factor).numpy(), expected, atol=1e-6)
        with pytest.raises(OptionError, match="factor >= 0"):
            function(tensor, -0.1)


def test_bytes_are_truncated_and_limited(photo):
    bright = F.adjust_brightness(photo, 1.7)
    assert bright.dtype == np.uint8
    assert (bright == np.minimum(photo * np.float32(1.7), 255).astype(np.uint8)).all()


@pytest.mark.parametrize("turn", [-0.5, -0.13, 0.0, 0.3, 0.5])
def test_hue_by_the_standard_library(tensor, turn):
    import colorsys

    found = F.adjust_hue(tensor, turn).numpy()
    for y, x in ((0, 0), (3, 7), (16, 22), (8, 8)):
        h, s, v = colorsys.rgb_to_hsv(*tensor.numpy()[:, y, x].tolist())
        expected = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
        np.testing.assert_allclose(found[:, y, x], expected, atol=1e-5)


def test_hue_of_special_colours():
    colours = np.array([[0, 0, 0], [255] * 3, [255, 0, 0], [0, 255, 0], [9, 9, 9]], np.uint8)
    turned = F.adjust_hue(colours[None], 1 / 3)[0]
    assert turned.tolist() == [[0, 0, 0], [255] * 3, [0, 255, 0], [0, 0, 255], [9, 9, 9]]
    assert (F.adjust_hue(colours[..., :1], 0.2) == colours[..., :1]).all()
    with pytest.raises(OptionError, match=r"\[-0\.5, 0\.5\]"):
        F.adjust_hue(colours[None], 0.6)


def test_gamma_invert_posterize_and_solarize(photo, tensor):
    x = tensor.numpy()
    expected = np.clip(1.1 * x**1.7, 0, 1)
    np.testing.assert_allclose(F.adjust_gamma(tensor, 1.7, 1.1).numpy(), expected, rtol=1e-5)
    assert (F.invert(photo) == 255 - photo).all()
    assert (F.invert(tensor).numpy() == 1 - x).all()
    assert (F.posterize(photo, 3) == photo // 32 * 32).all()
    assert (F.posterize(photo, 8) == photo).all()
    assert (F.solarize(photo, 100) == np.where(photo >= 100, 255 - photo, photo)).all()
    with pytest.raises(TypeError, match="expected uint8, came float32"):
        F.posterize(tensor, 3)


@pytest.mark.torch
@pytest.mark.parametrize(("kernel", "sigma"), [((5, 3), None), (3, 0.7), ((5, 7), (1.0, 2.0))])
def test_blur_equals_a_convolution_of_pytorch(tensor, kernel, sigma):
    torch = pytest.importorskip("torch")
    across, down = (kernel, kernel) if isinstance(kernel, int) else kernel
    widths = sigma or (across * 0.15 + 0.35, down * 0.15 + 0.35)
    widths = (widths, widths) if isinstance(widths, float) else widths
    rows = []
    for size, width in ((across, widths[0]), (down, widths[1])):
        weights = np.exp(-0.5 * ((np.arange(size) - size // 2) / width) ** 2)
        rows.append(weights / weights.sum())
    weight = torch.tensor(np.outer(rows[1], rows[0])).float().expand(3, 1, down, across)
    x = torch.from_numpy(tensor.numpy())[None]
    margins = (across // 2,) * 2 + (down // 2,) * 2
    padded = torch.nn.functional.pad(x, margins, mode="reflect")
    expected = torch.nn.functional.conv2d(padded, weight, groups=3)[0].numpy()
    np.testing.assert_allclose(F.gaussian_blur(tensor, kernel, sigma).numpy(), expected, atol=1e-6)


def test_jitter_stays_in_its_ranges_and_changes_the_order(tensor):
    ag.manual_seed(0)
    jitter = T.ColorJitter(brightness=(0.5, 0.5))
    assert np.allclose(jitter(tensor).numpy(), tensor.numpy() * 0.5)
    both = T.ColorJitter(brightness=(0.5, 0.5), contrast=(3, 3))
    results = {both(tensor).numpy().tobytes() for _ in range(40)}
    orders = [
        F.adjust_contrast(F.adjust_brightness(tensor, 0.5), 3),
        F.adjust_brightness(F.adjust_contrast(tensor, 3), 0.5),
    ]
    assert results == {o.numpy().tobytes() for o in orders}
    assert (T.ColorJitter()(tensor).numpy() == tensor.numpy()).all()


# -- choices ---------------------------------------------------------------------------------------
def test_chances_of_apply_choice_and_order(photo):
    ag.manual_seed(0)
    add = [T.Lambda(lambda x, n=n: [*x, n]) for n in range(3)]
    applied = [T.RandomApply(add, 0.3)([]) for _ in range(400)]
    assert {tuple(a) for a in applied} == {(), (0, 1, 2)}
    assert 80 < sum(map(bool, applied)) < 160
    chosen = [T.RandomChoice(add, [1, 0, 3])([])[0] for _ in range(400)]
    assert set(chosen) == {0, 2}
    assert 250 < chosen.count(2) < 350
    assert {T.RandomChoice(add)([])[0] for _ in range(60)} == {0, 1, 2}
    assert len({tuple(T.RandomOrder(add)([])) for _ in range(200)}) == 6
    assert not T.RandomApply(add).batchable
    assert not T.RandomApply([T.ToTensor()]).batchable  # it has no `apply`
    assert isinstance(T.RandomApply([T.ToTensor()], 1.0)(photo), ag.Tensor)
    with pytest.raises(TypeError, match="expected a list of transforms"):
        T.RandomApply(T.ToTensor())


# -- kinds -----------------------------------------------------------------------------------------
def test_dimensions_and_conversions(photo, tensor):
    assert F.get_dimensions(photo) == F.get_dimensions(tensor) == [3, 17, 23]
    assert F.get_image_size(photo[..., 0]) == [23, 17]
    assert F.get_image_num_channels(photo[..., 0]) == 1
    assert (F.to_tensor(photo).numpy() == T.ToTensor()(photo).numpy()).all()
    assert F.pil_to_tensor(photo).dtype == ag.uint8
    assert F.convert_image_dtype(F.pil_to_tensor(photo)).dtype == ag.float32
    normal = F.normalize(tensor, [0.5] * 3, [0.25] * 3)
    np.testing.assert_allclose(normal.numpy(), (tensor.numpy() - 0.5) / 0.25, rtol=1e-6)
    assert F.rgb_to_grayscale(photo).shape == (17, 23, 1)
    assert F.to_grayscale(photo, 3).shape == (17, 23, 3)


def test_pil_images_both_ways(photo, tensor):
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.fromarray(photo)
    assert (F.to_tensor(image).numpy() == F.to_tensor(photo).numpy()).all()
    assert (F.pil_to_tensor(image).numpy() == photo.transpose(2, 0, 1)).all()
    assert (F.resize(image, 9) == F.resize(photo, 9)).all()
    assert (T.ColorJitter((2, 2))(image) == F.adjust_brightness(photo, 2)).all()
    assert F.get_dimensions(image) == [3, 17, 23]
    for source in (photo, F.pil_to_tensor(photo), F.to_tensor(photo)):
        back = T.ToPILImage()(source)
        assert back.mode == "RGB"
        assert np.abs(np.asarray(back).astype(int) - photo).max() <= 1
    assert T.ToPILImage()(photo[..., 0]).mode == "L"
    assert T.ToPILImage("HSV")(photo).mode == "HSV"
    assert T.ToPILImage()(tensor[0]).size == (23, 17)
    assert T.ToPILImage()(np.concatenate([photo, photo[..., :1]], -1)).mode == "RGBA"
    with pytest.raises(DtypeError, match="came int64"):
        T.ToPILImage()(ag.zeros(3, 4, 4, dtype=ag.int64))
    with pytest.raises(ShapeError, match="1 to 4 channels, came 5"):
        T.ToPILImage()(ag.zeros(5, 4, 4))
    with pytest.raises(ShapeError, match=r"came \(4,\)"):
        T.ToPILImage()(ag.zeros(4))


def test_every_function_takes_arrays_and_tensors_alike(photo):
    t = F.pil_to_tensor(photo)
    for function in (
        F.hflip,
        F.invert,
        lambda x: F.resize(x, (9, 9)),
        lambda x: F.rotate(x, 20, "bilinear"),
        lambda x: F.affine(x, 20, (1, 2), 1.1, 5),
        lambda x: F.gaussian_blur(x, 3),
        lambda x: F.adjust_hue(x, 0.1),
    ):
        assert (function(t).numpy() == function(photo).transpose(2, 0, 1)).all()
