"""Pictures of models: what they show is right, and the model is left as it was."""

import json
import shutil
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

import minidl as md
from minidl import ArgumentError, DtypeError, GraphError, ShapeError, nn, viz
from minidl.context import state
from minidl.profile import Call, Ceilings, Profile, profile
from minidl.train.histograms import Histograms


@pytest.fixture(autouse=True)
def unchanged_matplotlib():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def network(seed=0):
    convolutions = nn.Conv2d(1, 3, 3, rng=seed), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, rng=seed + 1), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3, rng=seed + 2))


IMAGES = np.random.default_rng(0).random((3, 1, 12, 12)).astype(np.float32)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def drawn(figure, tmp_path):
    """The figure can be saved, and is not empty."""
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert matplotlib.image.imread(tmp_path / "figure.png").std() > 0.01
    return figure


def heat(figure):
    """The pictures below the images."""
    return [np.asarray(picture.get_array()) for picture in figure.axes[1].images]


# ---------------------------------------------------------------- explanations


@pytest.mark.parametrize(
    "explain",
    [
        lambda model: viz.saliency(model, IMAGES, samples=2),
        lambda model: viz.grad_cam(model, IMAGES),
        lambda model: viz.occlusion(model, IMAGES, stride=4),
        lambda model: viz.activation_maximisation(model, (1, 12, 12), steps=2),
        lambda model: viz.receptive_field(model, (1, 12, 12)),
        lambda model: viz.loss_surface(model, lambda model: md.square(model(IMAGES)).mean(), points=3),
    ],
)
def test_the_model_is_left_as_it_was(explain, tmp_path):
    model = network()
    model[3].eval()
    model[0].weight.requires_grad = False
    md.square(model(md.tensor(IMAGES))).mean().backward()
    weights = {name: (p, p.numpy().copy(), p.requires_grad) for name, p in model.named_parameters()}
    grads = {name: None if p.grad is None else p.grad.numpy().copy() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    drawn(explain(model), tmp_path)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._hooks for module in model.modules())
    for name, p in model.named_parameters():
        same, values, learns = weights[name]
        assert p is same
        assert p.requires_grad == learns
        np.testing.assert_array_equal(p.numpy(), values)
        if grads[name] is None:
            assert p.grad is None
        else:
            np.testing.assert_array_equal(p.grad.numpy(), grads[name])


def test_saliency_is_the_gradient_of_the_score():
    layer = nn.Linear(16, 2, rng=0)
    figure = viz.saliency(nn.Sequential(nn.Flatten(), layer), IMAGES[:1, :, :4, :4], target=1, samples=1)
    expected = np.abs(layer.weight.numpy()[1]).reshape(4, 4)
    np.testing.assert_allclose(heat(figure)[0], expected / expected.max(), rtol=1e-6)
    assert figure.axes[1].get_title(loc="left") == "Saliency: gradient of the score"


def test_captions_name_the_answer_and_how_sure_it_is():
    model = network().eval()
    p = md.softmax(model(md.tensor(IMAGES)), axis=1).numpy()
    figure = viz.saliency(model, IMAGES, classes=["cat", "dog", "cow"], samples=1)
    expected = [f"{['cat', 'dog', 'cow'][row.argmax()]}: {100 * row.max():.1f} %" for row in p]
    assert [text for text in texts(figure) if text] == expected
    figure = viz.grad_cam(model, IMAGES[0], target=2)
    assert f"2: {100 * p[0, 2]:.1f} %" in texts(figure)


def test_grad_cam_by_hand():
    model = network().eval()
    figure = viz.grad_cam(model, IMAGES[:1], layer="3", target=1)
    maps = model[:4](md.tensor(IMAGES[:1])).detach()
    maps.requires_grad = True
    model[4:](maps)[0, 1].backward()
    weights = maps.grad.numpy().mean(axis=(2, 3), keepdims=True)
    expected = np.maximum((weights * maps.numpy()).sum(1), 0)
    large = md.interpolate(md.tensor(expected[:, None]), size=(12, 12), mode="bilinear").numpy()[0, 0]
    assert large.max() > 0
    np.testing.assert_allclose(heat(figure)[0], large / large.max(), rtol=1e-4, atol=1e-6)


def test_occlusion_finds_the_only_pixel_that_matters():
    layer = nn.Linear(64, 2, rng=0)
    w = np.zeros((2, 8, 8), np.float32)
    w[1, 2, 5] = 4.0
    layer.weight.data = w.reshape(2, 64)
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 2, 5] = 1.0
    figure = viz.occlusion(nn.Sequential(nn.Flatten(), layer), image, target=1, size=1)
    found = heat(figure)[0]
    assert np.unravel_index(found.argmax(), found.shape) == (2, 5)
    z = float(layer.bias.numpy()[1] - layer.bias.numpy()[0])
    assert found[2, 5] == pytest.approx(1 / (1 + np.exp(-z - 4)) - 1 / (1 + np.exp(-z)), rel=1e-4)
    assert np.count_nonzero(found) == 1


def test_occlusion_covers_every_pixel_whatever_the_stride():
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 2, rng=0))
    found = heat(viz.occlusion(model, IMAGES[0, :, :7, :7], size=2, stride=3, fill=0.5))[0]
    assert found[0, 0] != 0
    assert found[6, 6] != 0
    assert found[2, 2] == 0  # between two patches


def test_activation_maximisation_finds_the_pattern():
    layer = nn.Linear(64, 2, rng=0)
    bright = np.zeros((8, 8), np.float32)
    bright[:, :4] = 1
    layer.weight.data = np.stack([2 * bright - 1, 1 - 2 * bright]).reshape(2, 64)
    figure = viz.activation_maximisation(nn.Sequential(nn.Flatten(), layer), (1, 8, 8), steps=40)
    first, second = (np.asarray(picture.get_array()) for picture in figure.axes[0].images)
    assert first[:, 1:3].mean() > 0.9 > 0.1 > first[:, 5:7].mean()
    assert second[:, 1:3].mean() < 0.1 < 0.9 < second[:, 5:7].mean()
    assert figure.get_suptitle().splitlines()[0] == "What the model takes for each class most"


def patterns(bias=0.0):
    """A convolution whose filters look for lying, standing and slanted stripes, and for nothing that there is."""
    v, u = np.mgrid[-3:4, -3:4]
    window = np.exp(-(u**2 + v**2) / 6)
    w = np.stack([np.cos(1.5 * v) * window, np.cos(1.5 * u) * window, np.cos(u + v) * window, 0 * u])
    w -= w.mean(axis=(1, 2), keepdims=True)
    layer = nn.Conv2d(1, 4, 7, rng=0)
    layer.weight.data, layer.bias.data = w[:, None].astype(np.float32), np.array([bias, bias, bias, -1], np.float32)
    return nn.Sequential(layer, nn.ReLU())


@pytest.mark.parametrize("layer", ["0", "1"])
@pytest.mark.parametrize("bias", [0.0, -0.5])
def test_activation_maximisation_shows_what_excites_each_filter(layer, bias):
    model = patterns(bias)

    def activation(images):
        return np.sqrt(md.square(model(md.tensor(images))).mean(axis=(2, 3)).numpy())

    figure = viz.activation_maximisation(model, (1, 20, 20), layer=layer, steps=60)
    found = np.stack([np.asarray(picture.get_array()) for picture in figure.axes[0].images])[:3, None].astype(np.float32)
    own = np.arange(3), np.arange(3)
    assert found.min() == 0.0
    assert found.max() == 1.0
    deviation = found.std(axis=(2, 3), keepdims=True)
    noise = np.random.default_rng(1).standard_normal(found.shape).astype(np.float32)
    noisy = activation(found.mean(axis=(2, 3), keepdims=True) + deviation * noise)
    flat = activation(np.broadcast_to(found.mean(axis=(2, 3), keepdims=True), found.shape).copy())
    reached = activation(found)
    assert (reached[own] > 3 * noisy[own]).all()
    assert (reached[own] > 10 * flat[own]).all()
    assert (reached[own] >= reached[:, :3].max(axis=0)).all()  # no other image excites the filter more
    across, along = (np.abs(np.diff(found[:, 0], axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
    assert across[0] > 3 * along[0]  # the stripes lie
    assert along[1] > 3 * across[1]  # and stand


def test_activation_maximisation_marks_dead_channels():
    figure = viz.activation_maximisation(patterns(), (1, 12, 12), layer="1", steps=5)
    captions = [text.split("\n")[1] for text in texts(figure) if "\n" in text]
    assert [caption == "never positive" for caption in captions] == [False, False, False, True]
    assert texts(figure).count("dead") == 1
    assert (np.asarray(figure.axes[0].images[3].get_array()) == 1).all()  # no picture of what is not there


def test_activation_maximisation_writes_what_images_and_noise_reach():
    model = network().eval()
    figure = viz.activation_maximisation(model, (1, 12, 12), steps=30, classes=["cat", "dog", "cow"])
    assert figure.get_suptitle().splitlines()[1] == "score of each image, and of noise of the same contrast"
    for text, name in zip(texts(figure), ["cat", "dog", "cow"], strict=True):
        head, numbers = text.split("\n")
        reached, noise = map(float, numbers.split(", noise "))
        assert head == name
        assert reached > noise


@pytest.mark.parametrize("count", [1, 3, 9])
def test_explanations_fill_their_figure(count):
    """Whatever the number of images, most of the figure is pictures, and none of them is tiny."""
    images = np.random.default_rng(0).random((count, 1, 12, 12)).astype(np.float32)
    for figure in (viz.saliency(network(), images, samples=1), viz.grad_cam(network(), images)):
        figure.draw_without_rendering()
        boxes = [picture.get_window_extent() for axes in figure.axes[:2] for picture in axes.images]
        sizes = [(box.width / figure.dpi, box.height / figure.dpi) for box in boxes]
        assert len(sizes) == 2 * count
        assert max(sizes) < (3, 3)
        assert min(sizes) > (0.8, 0.8)
        width, height = figure.get_size_inches()
        assert sum(w * h for w, h in sizes) > 0.4 * width * height


def test_activation_maximisation_of_channels_repeats():
    model = network()
    a, b = (viz.activation_maximisation(model, (1, 12, 12), layer="3", channels=[1, 3], steps=3) for _ in range(2))
    assert texts(a) == texts(b)
    assert [text.split("\n")[0] for text in texts(a) if "\n" in text] == ["1", "3"]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda m: viz.saliency(None, IMAGES), DtypeError, "saliency: expected model as a Module, got None"),
        (lambda m: viz.saliency(m, IMAGES[0, 0]), ShapeError, r"expected images of shape \(C, H, W\) or"),
        (lambda m: viz.saliency(m, np.repeat(IMAGES, 5, 0)), ShapeError, "N up to 12"),
        (lambda m: viz.saliency(m, IMAGES, target=3), ArgumentError, "expected target from 0 to 2, got 3"),
        (lambda m: viz.saliency(m, IMAGES, target=[0, 1]), ShapeError, "one target, or one for each of 3 images"),
        (lambda m: viz.saliency(m, IMAGES, target=1.5), DtypeError, "target as a class number"),
        (lambda m: viz.saliency(m, IMAGES, samples=0), ArgumentError, "samples of at least 1"),
        (lambda m: viz.saliency(m[0], IMAGES), ShapeError, r"a model that gives scores of shape \(N, K\)"),
        (lambda m: viz.saliency(m, IMAGES, classes=["a"]), ShapeError, "expected 3 classes, got 1 names"),
        (lambda m: viz.grad_cam(m, IMAGES, layer="9"), ArgumentError, "expected a layer of the model"),
        (lambda m: viz.grad_cam(m, IMAGES, layer="5"), ShapeError, r"a layer with output \(N, C, H, W\)"),
        (lambda m: viz.grad_cam(nn.Flatten(), IMAGES), ArgumentError, "a model with convolution layers"),
        (lambda m: viz.occlusion(m, IMAGES, size=13), ShapeError, "a patch within the image of 12 x 12, got 13 x 13"),
        (lambda m: viz.activation_maximisation(m, (12, 12)), ShapeError, r"shape as \(C, H, W\)"),
        (lambda m: viz.activation_maximisation(m, (1, 12, 12), channels=[7]), ArgumentError, "channels from 0 to 2"),
        (lambda m: viz.activation_maximisation(m, (1, 12, 12), values=(1, 0)), ArgumentError, "values from dark to bright"),
        (lambda m: viz.receptive_field(m, (1, 12, 12), position=(9, 0)), ArgumentError, "a position within 3 x 3"),
        (lambda m: viz.receptive_field(m, (1, 12, 12), layer="7"), ShapeError, r"a layer with output \(N, C, H, W\)"),
        (lambda m: viz.loss_surface(m, 3), DtypeError, "loss as a function of the model"),
        (lambda m: viz.loss_surface(m, lambda m: 1.0, points=4), ArgumentError, "an odd number of points"),
        (lambda m: viz.loss_surface(m, lambda m: np.nan, points=3), ArgumentError, "finite somewhere"),
        (lambda m: viz.histograms([]), DtypeError, "the callback"),
        (lambda m: viz.histograms(Histograms()), ArgumentError, "at least one record"),
        (lambda m: viz.histograms(Histograms(), "weights"), ArgumentError, "kind as one of"),
        (lambda m: viz.im2col(np.ones((2, 3, 3)), np.ones((2, 2))), ShapeError, "or both without C"),
        (lambda m: viz.im2col(np.ones((20, 20)), np.ones((3, 3))), ArgumentError, "at most 1600 numbers"),
        (lambda m: viz.roofline("p"), DtypeError, "expected a Profile"),
        (lambda m: viz.graph(np.ones(2)), DtypeError, "expected a tensor"),
        (lambda m: viz.graph(md.ones(2)), GraphError, "expected a tensor that an operation recorded"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call(network())


# ---------------------------------------------------------------- convolution


def frame(figure):
    """Top, bottom, left and right of the blue frame, in pixels."""
    from minidl.viz import _style

    (box,) = [
        patch
        for patch in figure.axes[0].patches
        if isinstance(patch, Rectangle) and matplotlib.colors.to_hex(patch.get_edgecolor()) == _style.BLUE
    ]
    left, top = box.get_xy()
    return top + 0.5, top + box.get_height() - 0.5, left + 0.5, left + box.get_width() - 0.5


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2, padding=1, rng=0)
        self.wide = nn.Conv2d(2, 2, 5, padding=2, rng=1)
        self.narrow = nn.Conv2d(2, 2, 1, rng=2)
        self.last = nn.Conv2d(2, 1, (1, 3), dilation=2, rng=3)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.wide(x) + self.narrow(x))


@pytest.mark.parametrize(
    ("model", "layer", "pixel", "expected"),
    [
        (network(), "0", (2, 3), (2, 4, 3, 5)),
        (network(), "3", (0, 0), (0, 7, 0, 7)),
        (network(), "3", (1, 2), (2, 9, 4, 11)),
        (Residual(), None, (3, 1), (1, 11, -3, 15)),
        (nn.Sequential(nn.Conv2d(1, 1, 3, 2, rng=0), nn.ConvTranspose2d(1, 1, 3, 2, rng=1)), None, (4, 4), (2, 6, 2, 6)),
        (nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), nn.Conv2d(1, 1, 1, rng=0)), None, (5, 5), (4, 6, 4, 6)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 1, 1, rng=0)), None, (0, 0), (0, 11, 0, 11)),
    ],
)  # fmt: skip
def test_receptive_field(model, layer, pixel, expected):
    figure = viz.receptive_field(model, (1, 12, 12), layer, pixel)
    assert frame(figure) == expected
    top, bottom, left, right = expected
    gradient = np.asarray(figure.axes[0].images[0].get_array())
    outside = np.ones((12, 12), bool)
    outside[max(0, top) : bottom + 1, max(0, left) : right + 1] = False
    assert not gradient[outside].any()  # nothing is seen beyond the frame
    rows, columns = gradient.any(axis=1).nonzero()[0], gradient.any(axis=0).nonzero()[0]
    seen = rows[0], rows[-1], columns[0], columns[-1]
    assert seen == (max(0, top), min(11, bottom), max(0, left), min(11, right))  # and all of it is


def test_im2col_shows_windows_columns_and_results(tmp_path):
    x, w = np.arange(12.0).reshape(3, 4), np.array([[1.0, 0.0], [0.0, -2.0]])
    figure = drawn(viz.im2col(x, w), tmp_path)
    assert figure.get_suptitle() == "im2col: 6 windows of 2 x 2 as the columns of a matrix"
    numbers = [text for text in texts(figure) if text.lstrip("-").replace(".", "").isdigit()]
    columns = md.im2col(md.tensor(x[None]), 2).numpy()
    y = md.conv2d(md.tensor(x[None]), md.tensor(w[None, None])).numpy().ravel()
    expected = [*x.ravel(), *w.ravel(), *columns.ravel(), *w.ravel(), *y, *y]
    assert [float(n) for n in numbers] == list(expected)
    assert {"w, 2 x 2", "columns, 4 x 6: one for each window", "w as a row, 1 x 4", "y, folded to 2 x 3"} <= {*texts(figure)}


def test_im2col_puts_each_result_where_the_row_of_w_and_its_column_meet():
    x, w = np.arange(12.0).reshape(3, 4), np.array([[1.0, 0.0], [0.0, -2.0]])
    axes = viz.im2col(x, w).axes[0]
    places = [(text.get_position(), text.get_text()) for text in axes.texts]
    numbers = [(place, float(text)) for place, text in places if text.lstrip("-").isdigit()]
    columns, row, result = numbers[16:40], numbers[40:44], numbers[44:50]
    assert [value for _, value in row] == [1, 0, 0, -2]
    assert len({up for (_, up), _ in row + result}) == 1  # one line of the picture
    for (across, _), value in result:
        column = [v for (left, _), v in columns if left == across]
        assert value == np.dot([v for _, v in row], column)


def test_im2col_with_channels_stride_and_padding(tmp_path):
    figure = drawn(viz.im2col(np.ones((2, 3, 3)), np.ones((2, 2, 2)), stride=2, padding=1), tmp_path)
    assert "4 windows of 2 x 2 x 2" in figure.get_suptitle()
    assert "x, 2 x 3 x 3, padded" in texts(figure)


# ---------------------------------------------------------------- training


def trained(every=2, epochs=2):
    model, recorded = network(), Histograms(every)
    batches = [(IMAGES, np.array([0, 1, 2])) for _ in range(3)]
    optimizer = md.optim.SGD(model.parameters(), lr=0.01)
    md.fit(model, batches, optimizer=optimizer, epochs=epochs, validation=batches[:1], callbacks=[recorded])
    return model, recorded


def test_histograms_record_what_layers_return_and_the_gradients_of_weights(tmp_path):
    _, recorded = trained()
    assert state.observer is None
    activations, gradients = recorded.records["activations"], recorded.records["gradients"]
    assert list(activations) == ["0", "3", "5", "6", "7"]  # convolution, ReLU and pooling run as one
    assert list(gradients) == ["0.weight", "3.weight", "7.weight"]
    assert [r["step"] for r in activations["0"]] == [r["step"] for r in gradients["7.weight"]] == [0, 2, 4]
    first = activations["0"][0]
    y = network()[:3](md.tensor(IMAGES)).numpy()
    assert first["counts"].sum() == y.size
    assert (first["low"], first["high"]) == (y.min(), y.max())
    np.testing.assert_allclose(first["quantiles"], np.quantile(y, [0.05, 0.5, 0.95]), rtol=1e-5)
    assert first["zeros"] == (y == 0).mean()
    for kind in ("activations", "gradients"):
        figure = drawn(viz.histograms(recorded, kind), tmp_path)
        assert "over 3 recorded steps" in figure.get_suptitle()


def test_histograms_explain_their_lines_and_label_the_lowest_panel_of_each_column():
    _, recorded = trained()
    figure = viz.histograms(recorded)
    assert figure.legends[0].get_texts()[0].get_text() == "median"
    panels = figure.axes[:5]
    assert [axes.get_xlabel() for axes in panels] == ["", "", "step", "step", "step"]
    assert [axes.get_ylabel() for axes in panels] == ["value", "", "", "value", ""]


def test_histograms_do_not_change_training():
    watched, _ = trained(every=1)
    md.manual_seed(0)
    model = network()
    batches = [(IMAGES, np.array([0, 1, 2])) for _ in range(3)]
    md.fit(model, batches, optimizer=md.optim.SGD(model.parameters(), lr=0.01), epochs=2, validation=batches[:1])
    for a, b in zip(model.parameters(), watched.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert any((a.numpy() != b.numpy()).any() for a, b in zip(model.parameters(), network().parameters(), strict=True))


def test_histograms_stop_after_an_error_and_go_on_from_a_state():
    model, recorded = network(), Histograms(1)
    optimizer = md.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(ShapeError):
        md.fit(model, [(np.ones((3, 2, 12, 12), np.float32), np.zeros(3, int))], optimizer=optimizer, callbacks=[recorded])
    assert state.observer is None
    _, recorded = trained()
    again = Histograms(2)
    again.load_state_dict(recorded.state_dict())
    assert [r["step"] for r in again.records["activations"]["0"]] == [0, 2, 4]


def test_one_constant_record_can_be_drawn(tmp_path):
    recorded = Histograms()
    recorded._keep("activations", "dead", np.zeros(10))
    figure = drawn(viz.histograms(recorded), tmp_path)
    assert figure.axes[0].get_title(loc="left") == "dead, 100.0 % zeros at the end"


def test_loss_surface_of_a_bowl(tmp_path):
    model = nn.Linear(3, 2, bias=False, rng=0)
    w = model.weight.numpy().copy()
    seen = []

    def loss(m):
        seen.append(m.weight.numpy() - w)
        return md.square(m.weight - md.tensor(w)).sum() + 1.0

    figure = drawn(viz.loss_surface(model, loss, span=0.5, points=5), tmp_path)
    assert figure.get_suptitle() == "Loss around the weights: 1 in the middle"
    assert len(seen) == 25
    assert not seen[12].any()
    # at the ends of the first direction, every filter has moved by half its length
    np.testing.assert_allclose(np.linalg.norm(seen[10], axis=1), 0.5 * np.linalg.norm(w, axis=1), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(seen[2], axis=1), 0.5 * np.linalg.norm(w, axis=1), rtol=1e-4)


def test_loss_surface_where_it_is_not_finite_and_on_given_axes(tmp_path):
    axes = Figure().subplots()
    model = nn.Linear(3, 2, rng=0)
    losses = iter([np.nan, *range(1, 9)])
    figure = drawn(viz.loss_surface(model, lambda m: next(losses), points=3, ax=axes), tmp_path)
    assert figure is axes.figure


# ---------------------------------------------------------------- roofline and graph


def test_roofline(tmp_path):
    model = network()
    with profile(Ceilings(gflops=100, gbs=10)) as p:
        model(md.tensor(IMAGES)).sum().backward()
    figure = drawn(viz.roofline(p, "op"), tmp_path)
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata()[1:], [100, 100])
    assert line.get_xdata()[1] == 10  # FLOPs per byte at the ridge
    rows = [row for row in p.rows("op") if row.flops]
    points = {tuple(np.round(xy, 6)) for dots in figure.axes[0].collections for xy in dots.get_offsets().tolist()}
    assert points == {tuple(np.round((row.flops / row.nbytes, row.gflops), 6)) for row in rows}
    with profile(Ceilings(1, 1)) as empty:
        md.ones(2).reshape(2, 1)
    with pytest.raises(ArgumentError, match="expected operations that compute and move numbers"):
        viz.roofline(empty)
    axes = Figure().subplots()
    assert viz.roofline(p, limit=2, ax=axes) is axes.figure


def test_roofline_names_do_not_cover_each_other():
    p = Profile(Ceilings(gflops=100, gbs=10))
    for i in range(8):  # dots in nearly one place
        phase = ("forward", "backward")[i % 2]
        p.calls.append(Call("linear", f"features.{i}", phase, 0.0, (1 + i % 3) * 1e-3, 10**8, 2 * 10**6 + i))
    figure = viz.roofline(p)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the lines that lead to them
    assert len(boxes) == 8 + 2
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlaps(b)]


def graph_of_network():
    model = network().eval()
    loss = md.cross_entropy(model(md.tensor(IMAGES)), md.tensor([0, 1, 2]))
    return model, loss, viz.graph(loss, model)


def test_graph_names_operations_modules_shapes_and_gradients():
    model, loss, g = graph_of_network()
    assert repr(g) == "<Graph of 5 operations>"
    by_name = {(vertex.name, vertex.path): vertex for vertex in g.vertices}
    assert by_name["conv2d_relu", "0"].shape == (3, 3, 5, 5)
    assert by_name["linear", "7"].shape == (3, 3)
    assert by_name["cross_entropy", ""].kind == "result"
    inputs = [g.vertices[i].name for i in by_name["linear", "7"].inputs]
    assert inputs == ["reshape", "7.weight", "7.bias"]
    assert all(p.grad is None for p in model.parameters())
    loss.backward()  # the graph is still there
    for name, p in model.named_parameters():
        assert by_name[name, ""].gradient == pytest.approx(np.abs(p.grad.numpy()).mean(), rel=1e-5)
        assert by_name[name, ""].shape == p.shape
    with pytest.raises(GraphError, match="a live graph, got one that a backward has freed"):
        viz.graph(loss)


def test_graph_adds_up_gradients_of_a_tensor_that_is_used_twice():
    x = md.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    g = viz.graph((y + md.square(y)).sum())
    assert {v.name: v.gradient for v in g.vertices}["multiply"] == pytest.approx(((1 + 6) + (1 + 12)) / 2)
    assert {v.name: v.gradient for v in g.vertices}["input"] == pytest.approx(3 * 10)
    assert sum("v0 --> v1" in line for line in g.mermaid().splitlines()) == 1


def test_graph_as_text(tmp_path):
    _, _, g = graph_of_network()
    dot, mermaid = g.dot(), g.mermaid()
    assert dot.startswith("digraph {\n")
    assert dot.count("{") == dot.count("}")
    edges = sum(len(vertex.inputs) for vertex in g.vertices)
    assert dot.count(" -> ") == mermaid.count(" --> ") == edges
    assert json.dumps("conv2d_relu\n0\n3 x 3 x 5 x 5")[1:-1] in dot
    assert "conv2d_relu<br/>0<br/>3 x 3 x 5 x 5" in mermaid
    assert "subgraph" not in dot
    block = nn.Sequential(nn.Linear(2, 2, rng=0), nn.ReLU())
    framed = viz.graph(nn.Sequential(block)(md.ones(1, 2)), nn.Sequential(block)).dot()
    inside = framed.partition('subgraph cluster0 { label="0";')[2].partition("}")[0]
    assert all(text in inside for text in ("0.0.weight", "0.0.bias", "linear_relu"))
    g.save(tmp_path / "graph.dot")
    g.save(tmp_path / "graph.mmd")
    assert (tmp_path / "graph.dot").read_text() == dot
    assert (tmp_path / "graph.mmd").read_text() == mermaid
    with pytest.raises(ArgumentError, match=r"a path that ends in .dot, .gv, .mmd, .svg, got 'graph.png'"):
        g.save("graph.png")


def test_graph_as_svg(monkeypatch, tmp_path):
    _, _, g = graph_of_network()
    if shutil.which("dot"):
        assert ElementTree.fromstring(g.svg()).tag.endswith("svg")
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho '<svg/>'\n[ \"$(head -n 1)\" = 'digraph {' ] || exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert g.svg() == "<svg/>\n"
    program.write_text("#!/bin/sh\ncat > /dev/null\necho 'syntax error' >&2\nexit 1\n")
    with pytest.raises(ArgumentError, match="expected a picture from dot, got syntax error"):
        g.svg()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ArgumentError, match=r"Graphviz's program dot, got none on the PATH\. Install it"):
        g.svg()


def test_an_image_in_place_of_a_shape_is_named_by_its_shape():
    """Not printed, number by number."""
    for picture in (viz.receptive_field, viz.activation_maximisation):
        with pytest.raises(md.ShapeError, match=r"got float64 of shape \(1, 28, 28\)\. Of an image x: x\.shape\.$"):
            picture(md.models.SmallCNN(rng=0), np.zeros((1, 28, 28)))
        with pytest.raises(md.ShapeError, match=r"got \(28, 28\)\.$"):
            picture(md.models.SmallCNN(rng=0), (28, 28))
