"""Transforms: against Pillow, published formulas and torchvision; Pillow images and arrays alike; seeds; mistakes."""

import importlib.util
import pickle
import warnings

import numpy as np
import pytest

import minidl as md
from minidl.data import transforms as T
from minidl.errors import ArgumentError, DtypeError, ShapeError

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


def pixels(H=24, W=30, C=3):
    """A picture with smooth parts, edges and noise, (C, H, W)."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:H, :W]
    planes = [(7 * x * (k + 1) + 5 * y * (3 - k)) % 256 for k in range(C)]
    return np.clip(np.stack(planes) + rng.integers(-20, 21, (C, H, W)), 0, 255).astype(np.uint8)


def painted(array):
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def values(x):
    """What is in an image of any kind, as (C, H, W)."""
    x = np.asarray(x) if isinstance(x, Image.Image) else x
    return x[None] if x.ndim == 2 else x if x.shape[0] in (1, 3) else x.transpose(2, 0, 1)


# ---------------------------------------------------------------- every transform

EVERY = {
    "Resize": T.Resize(16),
    "Resize to a size": T.Resize((20, 40), "bicubic"),
    "CenterCrop": T.CenterCrop((40, 10)),
    "Pad": T.Pad((1, 2, 3, 4), fill=9),
    "Pad reflected": T.Pad(3, padding_mode="reflect"),
    "RandomCrop": T.RandomCrop(20, padding=4),
    "RandomCrop with a color": T.RandomCrop(28, padding=4, fill=(1, 2, 3)),
    "RandomCrop of the edge": T.RandomCrop((26, 31), padding=4, padding_mode="edge"),
    "RandomCrop of less": T.RandomCrop(40, pad_if_needed=True),
    "RandomResizedCrop": T.RandomResizedCrop(16),
    "RandomHorizontalFlip": T.RandomHorizontalFlip(),
    "RandomVerticalFlip": T.RandomVerticalFlip(),
    "RandomRotation": T.RandomRotation(30, "bilinear", fill=3),
    "RandomRotation, all of it": T.RandomRotation(30, expand=True),
    "RandomAffine": T.RandomAffine(20, (0.2, 0.1), (0.7, 1.3), (-10, 10, -5, 5), "bilinear"),
    "ColorJitter": T.ColorJitter(0.4, 0.4, 0.4, 0.2),
    "Grayscale": T.Grayscale(),
    "Grayscale of three": T.Grayscale(3),
    "RandomGrayscale": T.RandomGrayscale(0.5),
    "RandomErasing": T.RandomErasing(0.7),
    "RandomErasing with noise": T.RandomErasing(1.0, value="random"),
    "Cutout": T.Cutout(8, holes=2, p=0.7),
    "GaussianNoise": T.GaussianNoise(0.1, 0.2),
    "SaltAndPepper": T.SaltAndPepper(0.2),
    "RandomApply": T.RandomApply([T.RandomVerticalFlip(1.0), T.Pad(1)]),
    "RandomChoice": T.RandomChoice([T.RandomVerticalFlip(1.0), T.Pad(1)], p=[1, 2]),
    "Compose": T.Compose([T.RandomCrop(20), T.RandomHorizontalFlip()]),
}
# Floats are neither rounded nor cut between the steps of one transform, or have other noise.
OTHER_FLOATS = {"ColorJitter", "RandomErasing with noise", "Resize to a size"}


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_of_image_gives_the_same(name):
    transform, array = EVERY[name], pixels()
    last = array.transpose(1, 2, 0).copy().transpose(2, 0, 1)  # channels-last in memory
    for seed in range(4):
        given = painted(array)
        by_pillow = transform(given, rng=seed)
        by_array = transform(array, rng=seed)
        assert isinstance(by_pillow, Image.Image)
        assert isinstance(by_array, np.ndarray)
        assert by_array.dtype == np.uint8
        assert np.array_equal(values(by_pillow), by_array)
        assert np.array_equal(transform(last, rng=seed), by_array)
        as_float = transform(array.astype(np.float64) if name == "Pad" else array.astype(np.float32) / 255, rng=seed)
        assert as_float.shape == by_array.shape
        assert as_float.dtype == (np.float64 if name == "Pad" else np.float32)
        if name not in OTHER_FLOATS and "fill" not in repr(transform).replace("fill=0", ""):
            assert abs(np.clip(as_float * 255, 0, 255) - by_array).max() <= 1.01  # uint8 rounds and is cut
        assert np.array_equal(array, pixels())  # what came is as it was
        assert np.array_equal(values(given), array)


@pytest.mark.parametrize("name", EVERY)
def test_the_generator_decides(name):
    transform, array = EVERY[name], pixels()
    results = [transform(array, np.random.default_rng(seed)) for seed in (3, 3, *range(10, 30))]
    assert np.array_equal(results[0], results[1])
    chance = any(r.shape != results[0].shape or not np.array_equal(r, results[0]) for r in results)
    assert chance == (not name.startswith(("Resize", "CenterCrop", "Pad", "Grayscale")))
    md.manual_seed(8)
    first = transform(array)
    md.manual_seed(8)
    assert np.array_equal(transform(array), first)
    copied = pickle.loads(pickle.dumps(transform))
    assert np.array_equal(copied(array, 3), results[0])
    assert type(transform).__name__ in repr(transform)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_image(name):
    transform = T.RandomVerticalFlip() if name == "RandomApply" else EVERY[name]  # it looks at images by chance only
    for wrong, error in (("text", DtypeError), (np.zeros((3, 8, 8), int), DtypeError), (np.zeros((8, 8)), ShapeError)):
        with pytest.raises(error, match=r"expected an? (Pillow )?image"):
            transform(wrong)


# ---------------------------------------------------------------- against Pillow, NumPy and formulas


def test_the_usual_pipeline_in_pillows_numbers():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    picture = painted(pixels(300, 400))
    x = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(mean, std)])(picture)
    resized = picture.resize((341, 256), Image.Resampling.BILINEAR)  # int(256 * 400 / 300)
    expected = np.asarray(resized.crop((58, 16, 282, 240))).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    for k in range(3):
        expected[k] = (expected[k] - np.float32(mean[k])) / np.float32(std[k])
    assert x.shape == (3, 224, 224)
    assert x.dtype == np.float32
    assert np.array_equal(x, expected)


def test_sizes_of_resize():
    for shape, transform, expected in (
        ((30, 40), T.Resize(15), (15, 20)),
        ((40, 30), T.Resize(15), (20, 15)),
        ((40, 31), T.Resize(15), (19, 15)),
        ((40, 30), T.Resize((7, 9)), (7, 9)),
        ((30, 90), T.Resize(15, max_size=30), (10, 30)),
        ((30, 40), T.Resize(30), (30, 40)),
    ):
        assert transform(np.zeros((3, *shape), np.uint8)).shape[1:] == expected


def test_crops_and_flips():
    x = np.arange(25, dtype=np.uint8).reshape(1, 5, 5)
    assert T.CenterCrop(3)(x)[0].tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
    assert T.CenterCrop((1, 8))(x)[0].tolist() == [[0, 10, 11, 12, 13, 14, 0, 0]]
    assert np.array_equal(T.RandomHorizontalFlip(1.0)(x), x[:, :, ::-1])
    assert np.array_equal(T.RandomVerticalFlip(1.0)(x), x[:, ::-1])
    assert np.array_equal(T.RandomVerticalFlip(0.0)(x), x)
    for mode in ("edge", "reflect", "symmetric"):
        assert np.array_equal(T.Pad((1, 2), padding_mode=mode)(x), np.pad(x, ((0, 0), (2, 2), (1, 1)), mode))
    assert np.array_equal(T.Pad((1, 2, 3, 4), fill=7)(x), np.pad(x, ((0, 0), (2, 4), (1, 3)), constant_values=7))
    places = set()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    for seed in range(200):
        crop = T.RandomCrop(5, padding=1)(x, rng=seed)
        places |= {(i, j) for i in range(3) for j in range(3) if np.array_equal(crop, padded[:, i : i + 5, j : j + 5])}
    assert len(places) == 9


def test_random_resized_crop_stays_within_its_ranges():
    transform = T.RandomResizedCrop(8, scale=(0.2, 0.5), ratio=(0.5, 2.0))
    boxes = np.array([transform._box(60, 80, np.random.default_rng(seed)) for seed in range(300)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (top + height <= 60).all()
    assert (left + width <= 80).all()
    share, ratio = height * width / 4800, width / height
    assert share.min() > 0.18
    assert share.max() < 0.52
    assert share.max() - share.min() > 0.2
    assert ratio.min() > 0.48
    assert ratio.max() < 2.1
    assert transform._box(10, 1000, RNG) == (0, 490, 10, 20)  # nothing fits: the middle


def test_turning_and_moving():
    x = pixels(20, 20)
    assert np.array_equal(T.RandomRotation((90, 90))(x), np.rot90(x, axes=(1, 2)))
    assert np.array_equal(T.RandomAffine((90, 90))(x), np.rot90(x, -1, axes=(1, 2)))
    assert np.array_equal(T.RandomAffine(0)(x), x)
    zoomed = T.RandomAffine(0, scale=(2, 2))(x)
    assert np.array_equal(zoomed, np.repeat(np.repeat(x[:, 5:15, 5:15], 2, 1), 2, 2))
    moved = T.RandomAffine(0, translate=(0.5, 0.0))
    shifts = set()
    for seed in range(60):
        y = moved(x, rng=seed)
        for d in range(-10, 11):
            target, source = slice(max(d, 0), 20 + min(d, 0)), slice(max(-d, 0), 20 - max(d, 0))
            if np.array_equal(y[:, :, target], x[:, :, source]):
                shifts.add(d)
    assert min(shifts) < -6
    assert max(shifts) > 6
    angle = np.degrees(np.arctan(2))  # two pixels to the side for each row away from the middle
    sheared = T.RandomAffine(0, shear=(angle, angle))(x)
    for row in range(20):
        for column in range(20):
            source = column + 2 * row - 19
            expected = x[:, row, source] if 0 <= source < 20 else 0
            assert (sheared[:, row, column] == expected).all()


def test_rotation_of_floats_equals_that_of_bytes():
    x = pixels(20, 21)
    turned = T.RandomRotation((30, 30), fill=7)
    assert np.array_equal(turned(x.astype(np.float32)), turned(x).astype(np.float32))


def test_colors_by_their_formulas():
    x = pixels().astype(np.float64) / 255
    gray = 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    np.testing.assert_allclose(T.ColorJitter(brightness=(1.5, 1.5))(x), np.clip(1.5 * x, 0, 1))
    np.testing.assert_allclose(T.ColorJitter(contrast=(0.3, 0.3))(x), 0.3 * x + 0.7 * gray.mean())
    np.testing.assert_allclose(T.ColorJitter(saturation=(2, 2))(x), np.clip(2 * x - gray, 0, 1))
    np.testing.assert_allclose(T.Grayscale()(x)[0], gray)
    np.testing.assert_allclose(T.Grayscale(3)(x), np.stack([gray] * 3))
    assert np.array_equal(T.ColorJitter()(x), x)


def test_hue_against_colorsys():
    import colorsys

    x = np.concatenate([pixels().reshape(3, -1), [[0, 255, 40], [0, 255, 40], [0, 255, 40]]], axis=1).astype(np.float64) / 255
    turned = T.ColorJitter(hue=(0.2, 0.2))(x[:, None])[:, 0]
    for k in range(x.shape[1]):
        h, s, v = colorsys.rgb_to_hsv(*x[:, k])
        np.testing.assert_allclose(turned[:, k], colorsys.hsv_to_rgb((h + 0.2) % 1, s, v), atol=1e-12)
    uint8 = T.ColorJitter(hue=(0.2, 0.2))(pixels())
    assert abs(turned[:, :-3].reshape(3, 24, 30) * 255 - uint8).max() < 14  # Pillow's circle has 256 steps


def test_to_tensor():
    to_tensor = T.ToTensor()
    array = pixels()
    expected = array.astype(np.float32) / np.float32(255)
    for x in (array, painted(array), array.transpose(1, 2, 0)):
        out = to_tensor(x)
        assert out.dtype == np.float32
        assert np.array_equal(out, expected)
    assert to_tensor(array[0]).shape == (1, 24, 30)
    assert to_tensor(array.astype(np.float64)).dtype == np.float32
    assert np.array_equal(to_tensor(array.astype(np.float64)), array.astype(np.float32))
    assert to_tensor(np.array([[True, False]])).tolist() == [[[1, 0]]]
    assert np.array_equal(to_tensor(painted(array[:1])), expected[:1])
    black = Image.new("1", (3, 2), 1)
    assert to_tensor(black).tolist() == [[[1, 1, 1], [1, 1, 1]]]
    palette = painted(array).quantize(16)
    assert np.array_equal(to_tensor(palette), to_tensor(palette.convert("RGB")))
    assert to_tensor(Image.new("RGBA", (3, 2))).shape == (4, 2, 3)
    with pytest.raises(ShapeError, match=r"shape \(1, 2, 3, 4\)"):
        to_tensor(np.zeros((1, 2, 3, 4)))
    with pytest.raises(DtypeError, match="got str"):
        to_tensor("picture")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_normalize(order):
    x = np.ascontiguousarray((pixels() / np.float32(255)).transpose(order)).transpose(np.argsort(order))
    before = x.copy()
    y = T.Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])(x)
    m, s = np.array([0.1, 0.2, 0.3], np.float32), np.array([0.4, 0.5, 0.6], np.float32)
    assert np.array_equal(y, (x - m[:, None, None]) / s[:, None, None])
    assert y.dtype == np.float32
    assert y.strides == x.strides
    assert np.array_equal(x, before)
    np.testing.assert_allclose(T.Normalize(0.5, 0.5)(x), 2 * x - 1, atol=1e-6)
    with pytest.raises(DtypeError, match=r"an array of floats, got array of uint8. Put ToTensor"):
        T.Normalize(0.5, 0.5)(pixels())
    with pytest.raises(ShapeError, match="C = 3"):
        T.Normalize([0.1, 0.2, 0.3], 1)(x[:2])


def test_erasing_and_noise():
    ones = np.ones((3, 40, 50), np.float32)
    shares = []
    for seed in range(100):
        y = T.RandomErasing(1.0, scale=(0.1, 0.3), ratio=(0.5, 2), value=(5, 6, 7))(ones, rng=seed)
        hole = y[0] == 5
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)  # one rectangle
        assert ((y[1] == 6) == hole).all()
        assert ((y[2] == 7) == hole).all()
        assert 0.4 < len(rows) / len(columns) < 2.2
        shares.append(hole.mean())
    assert 0.08 < min(shares) < 0.15 < 0.25 < max(shares) < 0.33
    assert 30 < sum(T.RandomErasing(0.5)(ones, rng=seed) is not ones for seed in range(100)) < 70
    cut = T.Cutout((4, 6), fill=2)(ones, rng=3)
    assert (cut == 2).sum() == 3 * 24
    noisy = T.GaussianNoise(0.0, 0.1, clip=False)(ones, rng=0)
    assert abs(noisy.mean() - 1) < 0.01
    assert abs(noisy.std() - 0.1) < 0.01
    assert T.GaussianNoise(0.0, 0.1)(ones, rng=0).max() == 1
    dots = T.SaltAndPepper(0.2, salt=0.25)(np.full((3, 200, 200), 9, np.uint8), rng=0)
    assert abs((dots[0] == 255).mean() - 0.05) < 0.01
    assert abs((dots[0] == 0).mean() - 0.15) < 0.01
    assert (dots == dots[0]).all()


# ---------------------------------------------------------------- batches


def batch(N=6, order=(0, 2, 3, 1)):
    x = np.random.default_rng(1).random((N, 3, 8, 10), np.float32)
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order)), np.arange(N) % 4


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_mixup(order):
    x, y = batch(order=order)
    before = x.copy()
    mixed, shares = T.MixUp(num_classes=4)((x, y), rng=2)
    lam = shares[1, 1]
    assert 0 < lam < 1
    np.testing.assert_allclose(mixed, lam * x + (1 - lam) * np.roll(x, 1, axis=0), rtol=1e-5)
    one_hot = np.eye(4)[y]
    np.testing.assert_allclose(shares, lam * one_hot + (1 - lam) * np.roll(one_hot, 1, axis=0), rtol=1e-5)
    assert (mixed.dtype, shares.dtype, mixed.strides) == (np.float32, np.float32, x.strides)
    assert np.array_equal(x, before)
    again, twice = T.MixUp()((mixed, shares), rng=3)  # labels that are shares already
    np.testing.assert_allclose(twice.sum(axis=1), 1, rtol=1e-5)
    assert again.shape == x.shape


def test_cutmix():
    x, y = batch()
    sizes = set()
    for seed in range(50):
        mixed, shares = T.CutMix(num_classes=4)((x, y), rng=seed)
        own, other = mixed == x, mixed == np.roll(x, 1, axis=0)
        assert (own | other).all()
        kept = own[0, 0].mean()
        assert (own == own[0, 0]).all()
        np.testing.assert_allclose(shares[1], kept * np.eye(4)[1] + (1 - kept) * np.eye(4)[0], atol=1e-6)
        sizes.add(int((~own[0, 0]).sum()))
    assert len(sizes) > 10
    assert mixed.strides == x.strides


def test_mixed_labels_train():
    y = T.MixUp(num_classes=4)(batch(), rng=0)[1]
    assert np.isfinite(md.cross_entropy(md.zeros(6, 4), md.tensor(y)).item())
    choice = T.RandomChoice([T.MixUp(num_classes=4), T.CutMix(num_classes=4)])
    assert choice(batch(), rng=1)[1].shape == (6, 4)


# ---------------------------------------------------------------- mistakes

MISTAKES = [
    (lambda: T.Resize(0), ArgumentError, "Resize: expected size of at least 1, got 0"),
    (lambda: T.Resize((1, 2, 3)), ArgumentError, "a pair"),
    (lambda: T.Resize(2.5), DtypeError, "size as an integer"),
    (lambda: T.Resize(8, "linear"), ArgumentError, "'bilinear'"),
    (lambda: T.Resize(8, max_size=8), ArgumentError, "max_size above 8"),
    (lambda: T.Resize((8, 8), max_size=9), ArgumentError, "no max_size"),
    (lambda: T.CenterCrop(-1), ArgumentError, "CenterCrop: expected size"),
    (lambda: T.Pad((1, 2, 3)), ArgumentError, "one, two or four"),
    (lambda: T.Pad(-1), ArgumentError, "padding of at least 0"),
    (lambda: T.Pad(1, padding_mode="wrap"), ArgumentError, "'reflect'"),
    (lambda: T.Pad(1, fill="red"), DtypeError, "fill as a number"),
    (lambda: T.RandomCrop(8, padding=1.5), DtypeError, "padding as an integer"),
    (lambda: T.RandomCrop(9)(np.zeros((3, 8, 8), np.uint8)), ArgumentError, r"at least \(9, 9\), got \(8, 8\)"),
    (lambda: T.RandomCrop(9, padding=1, fill=(1, 2))(np.zeros((3, 8, 8), np.uint8)), ShapeError, "one value or 3"),
    (lambda: T.RandomResizedCrop(8, scale=(0.5, 0.1)), ArgumentError, "smaller number first"),
    (lambda: T.RandomResizedCrop(8, ratio=(0, 1)), ArgumentError, "ratio above 0"),
    (lambda: T.RandomHorizontalFlip(1.5), ArgumentError, "p within 0 to 1, got 1.5"),
    (lambda: T.RandomVerticalFlip("0.5"), DtypeError, "p as a number"),
    (lambda: T.RandomRotation(-3), ArgumentError, "degrees within 0"),
    (lambda: T.RandomRotation(3, center=3), ArgumentError, "a pair"),
    (lambda: T.RandomRotation(3, "lanczos"), ArgumentError, "interpolation"),
    (lambda: T.RandomAffine(0, translate=0.1), ArgumentError, "translate as a pair"),
    (lambda: T.RandomAffine(0, translate=(2, 0)), ArgumentError, "within 0 to 1"),
    (lambda: T.RandomAffine(0, scale=(0, 1)), ArgumentError, "scale above 0"),
    (lambda: T.RandomAffine(0, shear=(1, 2, 3)), ArgumentError, "shear as a pair"),
    (lambda: T.ColorJitter(brightness=-1), ArgumentError, "brightness within 0"),
    (lambda: T.ColorJitter(hue=0.6), ArgumentError, "hue within"),
    (lambda: T.ColorJitter(contrast=float("nan")), ArgumentError, "contrast within"),
    (lambda: T.Grayscale(2), ArgumentError, "1 or 3"),
    (lambda: T.Grayscale()(np.zeros((4, 2, 2))), ShapeError, "1 or 3 channels"),
    (lambda: T.Normalize([1, 2], [1, 2, 3]), ArgumentError, "2 and 3"),
    (lambda: T.Normalize(0, 0), ArgumentError, "positive std"),
    (lambda: T.Normalize("a", 1), DtypeError, "mean as a number"),
    (lambda: T.RandomErasing(value="red"), ArgumentError, "'random'"),
    (lambda: T.RandomErasing(scale=(0, 2)), ArgumentError, "scale within 0 to 1"),
    (lambda: T.RandomErasing(1.0, value=(1, 2))(np.zeros((3, 8, 8))), ShapeError, "one value or 3"),
    (lambda: T.Cutout(0), ArgumentError, "size of at least 1"),
    (lambda: T.Cutout(2, holes=0), ArgumentError, "holes of at least 1"),
    (lambda: T.GaussianNoise(sigma=-1), ArgumentError, "sigma within 0"),
    (lambda: T.SaltAndPepper(2), ArgumentError, "amount within 0 to 1"),
    (lambda: T.Lambda(3), DtypeError, "a function"),
    (lambda: T.Compose(T.ToTensor()), DtypeError, "a list of transforms, got ToTensor"),
    (lambda: T.Compose([T.ToTensor]), DtypeError, "a transform or a function"),  # the class, not an instance
    (lambda: T.RandomChoice([]), ArgumentError, "at least one"),
    (lambda: T.RandomChoice([abs], p=[0]), ArgumentError, "not all zero"),
    (lambda: T.RandomApply([abs], p=-1), ArgumentError, "p within"),
    (lambda: T.MixUp(alpha=0), ArgumentError, "alpha above 0"),
    (lambda: T.MixUp()(batch()), ArgumentError, "num_classes"),
    (lambda: T.MixUp(num_classes=2)(batch()), ArgumentError, "labels from 0 to 1, got 0 to 3"),
    (lambda: T.CutMix(num_classes=4)(batch()[0]), ArgumentError, "a pair"),
    (lambda: T.CutMix(num_classes=4)((np.zeros((2, 3), np.float32), np.zeros(2, int))), ShapeError, r"\(N, C, H, W\)"),
    (lambda: T.CutMix(num_classes=4)((np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, int))), DtypeError, "floats"),
    (lambda: T.CutMix(num_classes=4)((batch()[0], np.zeros(2, int))), ShapeError, "6 labels"),
]


@pytest.mark.parametrize(("make", "error", "message"), MISTAKES)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------- against torchvision


@pytest.fixture(scope="module")
def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("no torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision.transforms.v2
        except (ImportError, RuntimeError) as error:  # one that was built for another torch
            pytest.skip(f"no torchvision that can be loaded: {error}")
    return torchvision.transforms


PAIRS = {
    "Resize": lambda t: [t.Resize(50), t.Resize((31, 77)), t.Resize(20, max_size=25)],
    "CenterCrop": lambda t: [t.CenterCrop(33), t.CenterCrop((99, 20)), t.CenterCrop((20, 121)), t.CenterCrop(200)],
    "Pad": lambda t: [t.Pad(3, fill=9), t.Pad((1, 2)), t.Pad((1, 2, 3, 4), padding_mode="symmetric")],
    "RandomRotation": lambda t: (
        [t.RandomRotation((d, d), fill=5) for d in (17, -90, 133.5)] + [t.RandomRotation((20, 20), expand=True, center=(3, 4))]
    ),
    "RandomAffine": lambda t: [
        t.RandomAffine((20, 20)),
        t.RandomAffine(0, scale=(0.7, 0.7), shear=(10, 10), fill=4),
        t.RandomAffine((-30, -30), scale=(1.3, 1.3), shear=(10, 10, -7, -7), center=(10, 12)),
    ],
    "ColorJitter": lambda t: [
        t.ColorJitter(brightness=(1.3, 1.3)),
        t.ColorJitter(contrast=(0.4, 0.4)),
        t.ColorJitter(saturation=(1.8, 1.8)),
        t.ColorJitter(hue=(0.3, 0.3)),
        t.ColorJitter(hue=(-0.21, -0.21)),
    ],
    "Grayscale": lambda t: [t.Grayscale(), t.Grayscale(3)],
    "flips": lambda t: [t.RandomHorizontalFlip(1.0), t.RandomVerticalFlip(1.0)],
    "usual": lambda t: [
        t.Compose([t.Resize(64), t.CenterCrop(56), t.ToTensor(), t.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    ],
}


@pytest.mark.parametrize("name", PAIRS)
def test_like_torchvision_on_pillow_images(name, torchvision):
    for shape in ((100, 120), (120, 81)):
        picture = painted(pixels(*shape))
        for ours, theirs in zip(PAIRS[name](T), PAIRS[name](torchvision)):
            assert np.array_equal(values(ours(picture)), values(np.asarray(theirs(picture)))), ours


def test_like_torchvision_on_float_images(torchvision):
    import torch

    x = pixels(40, 50).astype(np.float32) / 255
    for name in ("ColorJitter", "Grayscale", "CenterCrop", "Pad", "flips"):
        for ours, theirs in zip(PAIRS[name](T), PAIRS[name](torchvision)):
            np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), atol=2e-6, err_msg=repr(ours))


def test_mixing_like_torchvision(torchvision):
    import torch

    class Fixed:  # a generator that draws what torchvision drew
        def __init__(self, lam):
            self.lam = lam

        def beta(self, a, b):
            return self.lam

    x, y = batch()
    mix = torchvision.v2.MixUp(num_classes=4)
    mix._dist = torch.distributions.Beta(torch.tensor([3e6]), torch.tensor([7e6]))  # as good as always 0.3
    theirs = mix(torch.from_numpy(x), torch.from_numpy(y))
    ours = T.MixUp(num_classes=4).apply((x, y), Fixed(0.3))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b.numpy(), atol=2e-3)
