import subprocess
import sys

import numpy as np
import pytest

import minidl as md
from minidl import ArgumentError, DtypeError, ShapeError, nn

matplotlib = pytest.importorskip("matplotlib")
Figure = pytest.importorskip("matplotlib.figure").Figure
viz = md.viz
_style = pytest.importorskip("minidl.viz._style")

ROWS = [
    {"epoch": 1, "loss": 0.9, "accuracy": 0.70, "val_loss": 0.8, "val_accuracy": 0.75, "rate": 0.01},
    {"epoch": 2, "loss": 0.5, "accuracy": 0.85, "val_loss": 0.4, "val_accuracy": 0.88},
    {"epoch": 3, "loss": 0.3, "accuracy": 0.92, "val_loss": 0.6, "val_accuracy": 0.90},
]


@pytest.fixture(autouse=True)
def unchanged_matplotlib():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(axis=(2, 3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3, rng=0), nn.ReLU(), nn.Conv2d(3, 12, 3, rng=1))
        self.unused = nn.Conv2d(1, 1, 3, rng=2)
        self.pool = Mean()

    def forward(self, x):
        self.seen = x
        return self.pool(self.features(x))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def save(figure, tmp_path):
    """The pixels of the figure as saved; nothing but white would mean that nothing was drawn."""
    assert isinstance(figure, Figure)
    path = tmp_path / "figure.png"
    figure.savefig(path)
    pixels = matplotlib.image.imread(path)
    assert pixels.std() > 0.01
    return pixels


# -------------------------------------------------------------------- the package


def test_matplotlib_is_loaded_by_viz_alone_and_pyplot_never():
    code = """
import sys, minidl as md
assert "matplotlib" not in sys.modules
figure = md.viz.filters(md.ones(2, 1, 3, 3))
md.viz.learning_curves([{"loss": 1.0}])
md.viz.confusion_matrix([[1, 2], [3, 4]])
figure.canvas.draw()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_of_the_package_stay_errors():
    with pytest.raises(AttributeError, match="no attribute 'vizz'"):
        md.vizz  # noqa: B018


def test_pictures_do_not_depend_on_the_users_style(tmp_path):
    plain = save(viz.confusion_matrix([[5, 1], [0, 4]]), tmp_path)
    curves = save(viz.learning_curves(ROWS), tmp_path)
    with matplotlib.rc_context(
        {"text.color": "red", "axes.facecolor": "black", "figure.facecolor": "black", "axes.labelcolor": "red"}
    ):
        assert np.array_equal(save(viz.confusion_matrix([[5, 1], [0, 4]]), tmp_path), plain)
        assert np.array_equal(save(viz.learning_curves(ROWS), tmp_path), curves)


def test_ink_is_readable_on_every_colour():
    assert _style.ink_on((1.0, 1.0, 1.0)) == "black"
    assert _style.ink_on((0.0, 0.0, 0.4)) == "white"
    for name in ("Blues", "Oranges"):
        for colour in _style.part_of(name, 0.15, 0.9)(np.linspace(0, 1, 50)):
            ink = matplotlib.colors.to_rgb(_style.ink_on(colour))
            light, dark = sorted((_luminance(colour[:3]), _luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def _luminance(rgb):
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


# -------------------------------------------------------------------- learning curves


def test_learning_curves_draw_the_rows_and_ring_the_best(tmp_path):
    figure = viz.learning_curves(ROWS)
    save(figure, tmp_path)
    loss, accuracy = figure.axes
    assert loss.get_title(loc="left") == "Loss: lowest on validation data in epoch 2 (0.4)"
    assert accuracy.get_title(loc="left") == "Accuracy: highest on validation data in epoch 3 (90.0 %)"
    assert figure.get_suptitle() == "Learning curves over 3 epochs"
    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        training, validation, _, ring = axes.lines
        assert list(training.get_xdata()) == [1, 2, 3]
        assert list(training.get_ydata()) == [row[key] for row in ROWS]
        assert list(validation.get_ydata()) == [row["val_" + key] for row in ROWS]
        assert list(ring.get_xdata()) == [2 if key == "loss" else 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "validation"]


def test_learning_curves_leave_out_what_is_missing(tmp_path):
    figure = viz.learning_curves([{"loss": 0.9, "val_loss": None}, {"loss": 0.7, "val_loss": 0.5}, {}])
    save(figure, tmp_path)
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [1, 2]
    assert list(axes.lines[1].get_xdata()) == [2]
    only = viz.learning_curves([{"accuracy": 0.5}])
    assert titles(only) == ["Accuracy: highest on training data in epoch 1 (50.0 %)"]


def test_learning_curves_say_where_training_diverged(tmp_path):
    figure = viz.learning_curves([{"loss": 1.0}, {"loss": float("nan")}, {"loss": float("inf")}])
    save(figure, tmp_path)
    assert figure.axes[0].get_xlabel() == "epoch\ntraining loss is not finite in 2 epochs"
    assert titles(figure) == ["Loss: lowest on training data in epoch 1 (1)"]
    nothing = viz.learning_curves([{"loss": float("nan")}])
    save(nothing, tmp_path)
    assert titles(nothing) == ["Loss"]


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([], ArgumentError, "learning_curves: expected at least one row, got an empty history"),
        ([{"epoch": 1}], ArgumentError, "expected loss, accuracy, .*, got none of them"),
        ([{"accuracy": 97.0}], ArgumentError, "expected accuracy within 0 to 1, got 97"),
        ([{"loss": "low"}], DtypeError, "expected loss as a number, got 'low'"),
        ([3], DtypeError, "expected each row as a dictionary, got 3"),
        (5, DtypeError, "expected history as a list of rows, got 5"),
    ],
)
def test_learning_curves_refuse(history, error, message):
    with pytest.raises(error, match=message):
        viz.learning_curves(history)


# -------------------------------------------------------------------- confusion matrix


@pytest.mark.parametrize("make", [np.array, md.Tensor, list])
def test_confusion_matrix_writes_the_counts(make, tmp_path):
    counts = [[970, 0, 30], [1, 1234, 5], [0, 0, 0]]
    figure = viz.confusion_matrix(make(counts), classes=["cat", "dog", "owl"])
    save(figure, tmp_path)
    (axes,) = figure.axes
    written = {text.get_position(): text.get_text() for text in axes.texts}
    for t, p in np.ndindex(3, 3):
        assert written[p, t] == f"{counts[t][p]:,}"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert figure.get_suptitle() == "Confusion matrix: 2,204 of 2,240 right (98.4 %)"
    assert "97.0 %" in written.values()  # of the cats are right


def test_confusion_matrix_colours_single_mistakes():
    counts = np.diag([1000, 1000, 1000])
    counts[0, 1] = 1
    right, wrong = viz.confusion_matrix(counts).axes[0].images
    assert np.array_equal(np.ma.getmaskarray(right.get_array()), ~np.eye(3, dtype=bool))
    assert np.array_equal(~np.ma.getmaskarray(wrong.get_array()), counts == 1)
    assert wrong.to_rgba(1 / 1001)[2] < 0.9  # one in a thousand is not white


def test_confusion_matrix_in_percent(tmp_path):
    figure = viz.confusion_matrix([[3, 1, 0], [1, 4999, 0], [0, 0, 0]], normalize=True)
    save(figure, tmp_path)
    assert texts(figure)[:3] == ["75.0", "25.0", "0"]
    assert [text for text in texts(figure) if text in ("< 0.1", "–")] == ["< 0.1", "–", "–", "–"]


def test_confusion_matrix_without_samples_and_with_many_classes(tmp_path):
    figure = viz.confusion_matrix(np.zeros((2, 2)))
    save(figure, tmp_path)
    assert figure.get_suptitle() == "Confusion matrix: no samples"
    many = viz.confusion_matrix(np.eye(40) + 1)
    save(many, tmp_path)
    assert texts(many) == []
    assert len(many.axes) == 2  # the second is the colour bar
    save(viz.confusion_matrix(np.eye(150)), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1, 2, 3], [4, 5, 6]],), ShapeError, r"confusion_matrix: expected matrix of shape \(K, K\), .* got shape \(2, 3\)"),
        ((np.zeros((0, 0)),), ShapeError, r"got shape \(0, 0\)"),
        (([[1, -1], [0, 1]],), ArgumentError, "expected counts of 0 or more, got a value of -1"),
        (([[1.0, np.nan], [0, 1]],), ArgumentError, "got a value of nan"),
        (([[1, 0], [0, 1]], ["a", "b", "c"]), ShapeError, "expected 2 classes, got 3 names"),
        ((["a"],), DtypeError, "expected matrix as a tensor"),
    ],
)
def test_confusion_matrix_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        viz.confusion_matrix(*arguments)


# -------------------------------------------------------------------- filters


@pytest.mark.parametrize("make", [np.array, md.Tensor, md.Parameter])
def test_filters_of_one_channel_share_a_scale_around_zero(make, tmp_path):
    w = np.random.default_rng(0).standard_normal((10, 1, 3, 5))
    figure = viz.filters(make(w))
    save(figure, tmp_path)
    axes, _ = figure.axes
    assert len(axes.images) == 10
    assert texts(figure) == [str(i) for i in range(10)]
    for i, image in enumerate(axes.images):
        assert np.array_equal(image.get_array(), w[i, 0])
        assert image.get_clim() == pytest.approx((-np.abs(w).max(), np.abs(w).max()))
    assert figure.get_suptitle() == "10 filters of 3 x 5"


def test_filters_of_three_channels_are_colours_with_grey_for_zero(tmp_path):
    w = np.zeros((3, 3, 2, 2))
    w[0, 0, 0, 0] = 4.0
    w[1, 2, 1, 1] = -0.01
    figure = viz.filters(w)
    save(figure, tmp_path)
    (axes,) = figure.axes
    first, second, third = (image.get_array() for image in axes.images)
    assert np.allclose(first[0, 0], [1, 0.5, 0.5])
    assert np.allclose(second[1, 1], [0.5, 0.5, 0])
    assert np.allclose(third, 0.5)


def test_filters_of_many_channels_stand_in_rows(tmp_path):
    w = np.random.default_rng(0).standard_normal((40, 20, 3, 3))
    figure = viz.filters(w)
    save(figure, tmp_path)
    images = figure.axes[0].images
    assert len(images) == 16 * 16
    assert np.array_equal(images[16 * 2 + 5].get_array(), w[2, 5])
    assert figure.get_suptitle() == "First 16 of 40 filters (rows), first 16 of 20 input channels (columns)"


def test_filters_are_limited(tmp_path):
    figure = viz.filters(np.zeros((100, 1, 3, 3)), limit=5)
    save(figure, tmp_path)
    assert len(figure.axes[0].images) == 5
    assert figure.get_suptitle() == "First 5 of 100 filters of 3 x 3"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((3, 3)),), ShapeError, r"filters: expected weights of shape \(O, C, KH, KW\), got shape \(3, 3\)"),
        ((np.zeros((0, 1, 3, 3)),), ShapeError, r"got shape \(0, 1, 3, 3\)"),
        ((np.full((1, 1, 3, 3), np.nan),), ArgumentError, "expected finite weights, got NaN or infinity"),
        ((np.zeros((1, 1, 3, 3)), 0), ArgumentError, "expected limit of at least 1, got 0"),
    ],
)
def test_filters_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        viz.filters(*arguments)


# -------------------------------------------------------------------- feature maps


def test_feature_maps_draw_what_the_convolutions_give(tmp_path):
    model = Net()
    image = np.random.default_rng(0).standard_normal((1, 8, 9)).astype(np.float32)
    figure = viz.feature_maps(model, image, channels=5)
    save(figure, tmp_path)
    with md.no_grad():
        first = model.features[0](md.Tensor(image[None]))
        second = model.features[2](md.relu(first))
    shown, one, two = figure.axes
    assert len(shown.images) == 1
    assert [len(axes.images) for axes in (one, two)] == [3, 5]
    for axes, maps in ((one, first), (two, second)):
        for i, picture in enumerate(axes.images):
            assert np.allclose(picture.get_array(), maps.numpy()[0, i], atol=1e-6)
    assert "+7 more" in texts(figure)
    low, high = first.numpy().min(), first.numpy().max()
    assert titles(figure)[1] == f"features.0: Conv2d, 3 maps of 6 x 7, values {low:.3g} to {high:.3g} (blue below 0, red above)"


def test_feature_maps_of_named_layers():
    figure = viz.feature_maps(Net(), np.zeros((1, 1, 8, 8)), layer="features.1")
    assert len(figure.axes) == 2
    assert titles(figure)[1].startswith("features.1: ReLU, 3 maps of 6 x 6")
    assert len(viz.feature_maps(Net(), np.zeros((1, 8, 8)), layer=["features.0", "features.1"]).axes) == 3


def test_feature_maps_of_a_layer_called_twice_and_of_a_model_that_is_one_layer():
    conv = nn.Conv2d(1, 1, 3, padding=1, rng=0)
    assert len(viz.feature_maps(nn.Sequential(conv, conv), np.ones((1, 4, 4))).axes) == 3
    assert titles(viz.feature_maps(conv, np.ones((1, 4, 4))))[1].startswith("Conv2d, 1 map of 4 x 4")


def test_feature_maps_leave_the_model_as_it_was():
    model = Net()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    assert any(modes)
    assert not all(modes)
    viz.feature_maps(model, np.zeros((1, 8, 8)))
    with pytest.raises(ShapeError):
        viz.feature_maps(model, np.zeros((2, 8, 8)))
    assert [module.training for module in model.modules()] == modes
    assert all(not module._hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_feature_maps_run_in_evaluation_mode_in_the_models_dtype():
    model = Net().double()
    modes = []
    model.features[0].register_forward_pre_hook(lambda layer, _: modes.append((layer.training, md.is_grad_enabled())))
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    viz.feature_maps(model, image)
    assert modes == [(False, False)]
    assert model.seen.dtype == np.float64
    assert np.allclose(model.seen.numpy(), image[None] / 255, atol=1e-7)


def test_feature_maps_of_deep_models_and_other_channels(tmp_path):
    model = nn.Sequential(*[nn.Conv2d(2, 2, 1, rng=i) for i in range(14)])
    figure = viz.feature_maps(model, np.ones((2, 3, 3)))
    save(figure, tmp_path)
    assert len(figure.axes) == 13
    assert figure.get_suptitle().endswith("the first 12 of 14; pick others with layer=")
    assert titles(figure)[0] == "input: 2 x 3 x 3, values 1 to 1 (shown: the mean of its channels)"


def test_feature_maps_with_nan(tmp_path):
    image = np.zeros((1, 4, 4))
    image[0, 0, 0] = np.nan
    figure = viz.feature_maps(nn.Conv2d(1, 1, 3, rng=0), image)
    save(figure, tmp_path)
    assert "1 of 4 values NaN or infinite" in titles(figure)[1]


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.zeros((8, 8)), {}, ShapeError, r"feature_maps: expected one image of shape \(C, H, W\) .* got shape \(8, 8\)"),
        (np.zeros((2, 1, 8, 8)), {}, ShapeError, r"got shape \(2, 1, 8, 8\)"),
        (
            np.zeros((1, 8, 8)),
            {"layer": "features.9"},
            ArgumentError,
            r"expected a layer of the model \(features, .*got 'features.9'",
        ),
        (
            np.zeros((1, 8, 8)),
            {"layer": "unused"},
            ArgumentError,
            "expected layers that run in forward, got unused, which did not",
        ),
        (
            np.zeros((1, 8, 8)),
            {"layer": "pool"},
            ShapeError,
            r"feature_maps \[pool\]: expected a layer with output \(N, C, H, W\)",
        ),
        (np.zeros((1, 8, 8)), {"channels": 0}, ArgumentError, "expected channels of at least 1, got 0"),
    ],
)
def test_feature_maps_refuse(image, options, error, message):
    with pytest.raises(error, match=message):
        viz.feature_maps(Net(), image, **options)


def test_feature_maps_refuse_models():
    with pytest.raises(ArgumentError, match="expected a model with convolution layers, got Linear"):
        viz.feature_maps(nn.Linear(2, 2, rng=0), np.zeros((1, 8, 8)))
    with pytest.raises(DtypeError, match="expected model as a Module"):
        viz.feature_maps(lambda x: x, np.zeros((1, 8, 8)))


# -------------------------------------------------------------------- images and mistakes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [np.array, md.Tensor])
def test_image_grid_shows_the_pixels(channels, make, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 4, 6), dtype=np.uint8)
    figure = viz.image_grid(make(images), titles=list("abcde"), columns=2, title="five")
    save(figure, tmp_path)
    (axes,) = figure.axes
    assert texts(figure) == list("abcde")
    assert figure.get_suptitle() == "five"
    for i, picture in enumerate(axes.images):
        expected = images[i, 0] if channels == 1 else images[i].transpose(1, 2, 0)
        assert np.allclose(picture.get_array(), expected / 255, atol=1e-6)
    lefts = [image.get_extent()[0] for image in axes.images]
    assert lefts == [0, 1.12, 0, 1.12, 0]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, 0.25, 0.5], [0, 0.25, 0.5]),  # within 0 to 1: as they are
        ([-1.0, 0.0, 3.0], [0, 0.25, 1]),  # standardised: stretched
        ([0, 51, 255], [0, 0.2, 1]),
        ([7.0, 7.0, 7.0], [0.5, 0.5, 0.5]),
        ([False, True, True], [0, 1, 1]),
    ],
)
def test_image_grid_scales_values(values, shown):
    picture = viz.image_grid(np.array(values).reshape(1, 1, 1, 3)).axes[0].images[0]
    assert np.allclose(picture.get_array(), [shown])
    assert picture.get_clim() == (0, 1)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (np.zeros((2, 8, 8)), {}, ShapeError, r"image_grid: expected images of shape \(N, C, H, W\).*images\[:, None\]"),
        (np.zeros((2, 4, 8, 8)), {}, ShapeError, "with C = 1 or 3"),
        (np.zeros((0, 1, 8, 8)), {}, ShapeError, "expected at least one image, got none"),
        (np.zeros((2, 1, 8, 8)), {"titles": ["a"]}, ShapeError, "expected 2 titles for 2 images, got 1"),
        (np.zeros((2, 1, 8, 8)), {"columns": 0}, ArgumentError, "expected columns of at least 1"),
    ],
)
def test_image_grid_refuses(images, options, error, message):
    with pytest.raises(error, match=message):
        viz.image_grid(images, **options)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_titles_fit_into_small_figures(count):
    title = "The 3 most confident of 1,036 mistakes in 10,000 images\nand a line below"
    figure = viz.image_grid(np.zeros((count, 1, 8, 8)), title=title)
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert box.x0 > 0
    assert box.x1 < figure.bbox.width
    assert box.y0 > max(image.get_window_extent().y1 for image in figure.axes[0].images)


def answers():
    """Six images, each of its own brightness; three wrong with confidence 0.6, 0.9 and 0.7."""
    images = np.arange(6).reshape(6, 1, 1, 1) / 10 * np.ones((1, 1, 4, 4))
    labels = np.array([0, 1, 2, 0, 1, 2])
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.6, 0.4, 0], [0, 0.9, 0.1], [0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.1, 0.1, 0.8]], dtype=np.float32
    )
    return images, labels, probabilities


def brightness(figure):
    return [round(float(image.get_array().mean()), 3) for image in figure.axes[0].images]


def test_worst_mistakes_come_first(tmp_path):
    figure = viz.worst_mistakes(*answers())
    save(figure, tmp_path)
    assert texts(figure) == ["true 2, said 1\n90.0 % sure", "true 1, said 2\n70.0 % sure", "true 1, said 0\n60.0 % sure"]
    assert brightness(figure) == [0.2, 0.4, 0.1]
    assert figure.get_suptitle() == "All 3 mistakes, the most confident first, in 6 images"


def test_worst_mistakes_are_counted_and_named():
    figure = viz.worst_mistakes(*map(md.Tensor, answers()), classes=["cat", "dog", "elephant"], count=2)
    assert texts(figure) == ["true elephant,\nsaid dog\n90.0 % sure", "true dog,\nsaid elephant\n70.0 % sure"]
    assert figure.get_suptitle() == "The 2 most confident of 3 mistakes in 6 images"
    images, labels, probabilities = answers()
    only = viz.worst_mistakes(images[:2], labels[:2], probabilities[:2])
    assert only.get_suptitle() == "The only mistake in 2 images"


def test_without_mistakes_the_least_certain_answers_are_shown(tmp_path):
    images, _, probabilities = answers()
    figure = viz.worst_mistakes(images, probabilities.argmax(axis=1), probabilities, count=2)
    save(figure, tmp_path)
    assert figure.get_suptitle() == "No mistake in 6 images: the least certain right answers"
    assert texts(figure) == ["true 0, said 0\n60.0 % sure", "true 2, said 2\n70.0 % sure"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y, p: (x[:5], y, p),
            ShapeError,
            r"worst_mistakes: expected as many images, .* got images \(5, 1, 4, 4\), labels \(6,\)",
        ),
        (lambda x, y, p: (x, y[:4], p), ShapeError, r"labels \(4,\)"),
        (lambda x, y, p: (x, y, p[0]), ShapeError, r"expected probabilities of shape \(N, K\), got shape \(3,\)"),
        (lambda x, y, p: (x[:0], y[:0], p[:0]), ShapeError, "at least one"),
        (lambda x, y, p: (x[:, 0], y, p), ShapeError, r"expected images of shape \(N, C, H, W\)"),
        (lambda x, y, p: (x, y * 1.0, p), DtypeError, "expected labels as integers, got float64"),
        (lambda x, y, p: (x, y + 1, p), ArgumentError, "expected labels from 0 to 2, got 1 to 3"),
        (lambda x, y, p: (x, y, p * 5 - 2), ArgumentError, "expected probabilities from 0 to 1, .* Apply softmax first"),
        (lambda x, y, p: (x, y, p * np.nan), ArgumentError, "expected probabilities from 0 to 1, got nan"),
        (lambda x, y, p: (x, y, p, ["a"]), ShapeError, "expected 3 classes, got 1 names"),
        (lambda x, y, p: (x, y, p, None, 0), ArgumentError, "expected count of at least 1"),
    ],
)
def test_worst_mistakes_refuse(change, error, message):
    with pytest.raises(error, match=message):
        viz.worst_mistakes(*change(*answers()))
