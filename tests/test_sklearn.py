"""minidl.sklearn: scikit-learn's own checks of estimators, and what people do with one."""

import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import minidl as md
from minidl import nn, optim
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.sklearn import Classifier

EXPECTED = {}


@parametrize_with_checks([Classifier(epochs=15, lr=0.01)], expected_failed_checks=lambda estimator: EXPECTED)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def clouds(n=120, texts=True):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = np.array([[0, 2], [2, -1], [-2, -1]])[y] + 0.4 * rng.normal(size=(n, 2))
    return x, np.array(["red", "green", "blue"])[y] if texts else y


def narrow(shape, classes):
    return nn.Linear(*shape, classes)


def test_labels_as_texts():
    X, y = clouds()
    classifier = Classifier(epochs=10, lr=0.01, random_state=0).fit(X, y)
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert classifier.score(X, y) > 0.95
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (120, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (classifier.classes_[probabilities.argmax(1)] == classifier.predict(X)).all()
    assert len(classifier.history_) == 10


def test_pipeline_and_grid_search():
    X, y = clouds()
    pipeline = make_pipeline(StandardScaler(), Classifier(narrow, epochs=4, random_state=0))
    grid = {"classifier__lr": [1e-5, 0.05], "classifier__model": [narrow, None]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X * 100, y)
    assert search.best_params_["classifier__lr"] == 0.05
    assert search.best_score_ > 0.9
    assert cross_val_score(search.best_estimator_, X, y, cv=3).min() > 0.9


def test_the_random_state_decides_everything():
    X, y = clouds()

    def weights(seed, **options):
        model = Classifier(random_state=seed, epochs=2, **options).fit(X, y).model_
        return np.concatenate([p.numpy().ravel() for p in model.parameters()])

    md.manual_seed(5)
    before = md.random.get_state()
    assert np.array_equal(weights(1), weights(1))
    assert md.random.get_state() == before
    assert not np.array_equal(weights(1), weights(2))
    assert not np.array_equal(weights(None), weights(None))
    assert np.array_equal(weights(np.random.RandomState(3)), weights(np.random.RandomState(3)))


def test_images_keep_their_shape_and_bytes_are_divided_by_255():
    train, test = md.data.mnist_mini()
    shapes = []

    def cnn(shape, classes):
        shapes.append(shape)
        return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, classes))

    classifier = Classifier(cnn, epochs=4, lr=0.01, random_state=0).fit(train.images[:500], train.labels[:500])
    assert shapes == [(1, 28, 28)]
    assert classifier.score(test.images[:200], test.labels[:200]) > 0.75
    scaled = classifier.predict_proba((test.images[:200] / 255).astype(np.float32))
    np.testing.assert_allclose(scaled, classifier.predict_proba(test.images[:200]), rtol=1e-4, atol=1e-6)
    with pytest.raises(ShapeError, match=r"examples of shape \(1, 28, 28\), as in fit, got \(1, 14, 28\)"):
        classifier.predict(test.images[:5, :, ::2])


def test_class_weights_move_the_border():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-0.5, 1, (190, 1)), rng.normal(0.5, 1, (10, 1))])
    y = np.array([0] * 190 + [1] * 10)
    options = {"epochs": 30, "lr": 0.05, "random_state": 0, "batch_size": 200}
    plain, balanced, given = (
        Classifier(narrow, class_weight=weight, **options).fit(X, y).predict(X).sum()
        for weight in (None, "balanced", {0: 1, 1: 1e3})
    )
    assert plain < 20 < balanced < 150 < given


def test_optimizers_by_name_and_by_function():
    X, y = clouds()
    for optimizer in ("sgd", "adamw", lambda parameters, lr: optim.SGD(parameters, lr, momentum=0.9)):
        assert Classifier(narrow, epochs=5, lr=0.1, optimizer=optimizer, random_state=0).fit(X, y).score(X, y) > 0.95


def test_parameters_survive_a_clone_and_verbose_prints(capsys):
    X, y = clouds()
    classifier = Classifier(narrow, epochs=1, verbose=True, class_weight="balanced")
    assert clone(classifier).get_params() == classifier.get_params()
    clone(classifier).fit(X, y)
    assert capsys.readouterr().out.startswith("epoch 1/1  loss ")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, ArgumentError, "Classifier: expected epochs of at least 0"),
        ({"batch_size": 0}, ArgumentError, "batch_size of at least 1"),
        ({"lr": -1.0}, ArgumentError, "lr"),
        ({"optimizer": "newton"}, ArgumentError, "optimizer as one of adam, .* or a function, got 'newton'"),
        ({"model": nn.Linear(2, 3)}, DtypeError, "model as a function of shape and classes, got Linear"),
        ({"model": lambda shape, classes: 3}, DtypeError, "a Module from model"),
        ({"model": lambda shape, classes: nn.Linear(2, 2)}, ValueError, "cross_entropy"),
        ({"device": "tpu"}, ValueError, "device"),
    ],
)
def test_options_are_checked_in_fit(options, error, message):
    X, y = clouds()
    with pytest.raises(error, match=message):
        Classifier(**options).fit(X, y)


def test_ctrl_c_ends_a_search_too():
    fits = []

    def model(shape, classes):
        fits.append(shape)
        linear = nn.Linear(*shape, classes)
        linear.register_forward_hook(lambda *args: signal.raise_signal(signal.SIGINT))
        return linear

    X, y = clouds()
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(Classifier(model, epochs=1), {"lr": [0.1, 0.2]}, cv=3).fit(X, y)
    assert len(fits) == 1


def test_one_class_is_refused():
    with pytest.raises(ArgumentError, match="at least 2 classes, got one class"):
        Classifier().fit(np.eye(3), ["a"] * 3)


def test_without_scikit_learn_the_error_names_the_extra():
    code = "import sys; sys.modules['sklearn'] = None; import minidl.sklearn"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        "ImportError: minidl.sklearn: expected scikit-learn 1.6 or newer. Install it: pip install 'minidl[sklearn]'."
        in result.stderr
    )
