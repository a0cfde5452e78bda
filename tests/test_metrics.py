"""Metrics against scikit-learn's and against plain definitions; streaming; cross-validation."""

import math
import warnings

import numpy as np
import pytest

import minidl as md
from minidl import nn, optim, train
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.train import ROCAUC, ConfusionMatrix, TopK, class_weights, classification_report, confusion_matrix, roc_auc

FIGURES = {"precision": train.precision, "recall": train.recall, "f1": train.f1}


def sklearn_metrics():
    return pytest.importorskip("sklearn.metrics")


def labels(n, classes, seed, used=None):
    rng = np.random.default_rng(seed)
    return rng.integers(0, used or classes, n), rng.integers(0, used or classes, n)


CASES = {
    "three classes": (*labels(60, 3, 0), 3),
    "two classes": (*labels(30, 2, 1), 2),
    "classes without examples": (*labels(30, 6, 2, used=4), 6),
    "a class never predicted": (np.array([0, 1, 2, 2, 1, 0]), np.array([0, 1, 1, 0, 1, 0]), 3),
    "a class without examples": (np.array([0, 1, 1, 0]), np.array([0, 2, 1, 0]), 3),
    "nothing right": (np.array([0, 0, 1]), np.array([1, 1, 0]), 2),
    "one example": (np.array([1]), np.array([1]), 3),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("zero", [0, 1, math.nan])
@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_of_scikit_learn(case, zero, name):
    truth, guess, classes = CASES[case]
    theirs = getattr(sklearn_metrics(), f"{name}_score")
    for average in ("macro", "micro", "weighted", None, *(["binary"] if classes == 2 else [])):
        options = {} if average == "binary" else {"labels": list(range(classes))}
        expected = theirs(truth, guess, average=average, zero_division=zero, **options)
        ours = FIGURES[name](confusion_matrix(truth, guess, classes), average, zero)
        np.testing.assert_allclose(ours, expected, rtol=1e-12, err_msg=str(average))


@pytest.mark.parametrize("positive", [0, 1])
def test_binary_looks_at_the_positive_class(positive):
    truth, guess, _ = CASES["two classes"]
    matrix = confusion_matrix(truth, guess, 2)
    for name, figure in FIGURES.items():
        expected = getattr(sklearn_metrics(), f"{name}_score")(truth, guess, pos_label=positive)
        assert figure(matrix, "binary", positive=positive) == pytest.approx(expected, rel=1e-12)


def test_zero_division_may_warn():
    matrix = confusion_matrix(*CASES["a class never predicted"])
    with pytest.warns(UserWarning, match="precision: a class has no value and counts as 0"):
        value = train.precision(matrix, zero_division="warn")
    assert value == train.precision(matrix, zero_division=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.recall(matrix, zero_division="warn")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case != "nothing right"]
)  # of which theirs counts the examples as 2.0
@pytest.mark.parametrize(("names", "digits"), [(None, 2), (["a", "a very long name", "c", "d", "e", "f"], 4)])
def test_report_is_that_of_scikit_learn(case, names, digits):
    truth, guess, classes = CASES[case]
    names = names and names[:classes]
    options = {"labels": list(range(classes)), "target_names": names, "digits": digits, "zero_division": 0}
    matrix = confusion_matrix(truth, guess, classes)
    theirs = sklearn_metrics().classification_report
    assert classification_report(matrix, names, digits) == theirs(truth, guess, **options)
    expected = theirs(truth, guess, output_dict=True, **options)
    ours = classification_report(matrix, names, digits, as_dict=True)
    assert list(ours) == list(expected)
    assert ours.pop("accuracy") == pytest.approx(expected.pop("accuracy"))
    for key in expected:
        assert ours[key] == pytest.approx(expected[key], rel=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 10**6], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("n", [2, 7, 200])
def test_binary_roc_auc_is_that_of_scikit_learn(n, levels):
    rng = np.random.default_rng(n + levels)
    truth = np.arange(n) % 2
    scores = rng.integers(0, levels, n) / levels
    expected = sklearn_metrics().roc_auc_score(truth, scores)
    for given in (scores, scores[:, None], np.stack([1 - scores, scores], 1)):
        assert roc_auc(truth, given) == pytest.approx(expected, rel=1e-12)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth == 1] for b in scores[truth == 0]]
    assert roc_auc(truth, scores) == pytest.approx(np.mean(pairs), rel=1e-12)


@pytest.mark.parametrize("average", ["macro", "weighted", None])
def test_roc_auc_of_several_classes_is_that_of_scikit_learn(average):
    rng = np.random.default_rng(0)
    truth = np.minimum(rng.integers(0, 6, 80), 3)
    p = rng.integers(1, 5, (80, 4)).astype(float)  # with ties
    p /= p.sum(1, keepdims=True)
    expected = sklearn_metrics().roc_auc_score(truth, p, multi_class="ovr", average=average)
    np.testing.assert_allclose(roc_auc(truth, p, average), expected, rtol=1e-12)


def test_roc_auc_that_has_no_value():
    assert math.isnan(roc_auc([1, 1], [0.1, 0.2]))
    assert math.isnan(roc_auc([0, 1, 0], np.eye(3)))
    areas = roc_auc([0, 1, 0], np.eye(3), average=None)
    assert np.isnan(areas).tolist() == [False, False, True]
    assert math.isnan(ROCAUC().compute())


def test_class_weights_are_those_of_scikit_learn():
    utils = pytest.importorskip("sklearn.utils")
    truth = np.array([0, 2, 2, 2, 1, 2])
    expected = utils.compute_class_weight("balanced", classes=np.arange(3), y=truth)
    np.testing.assert_allclose(class_weights(truth), expected)
    assert class_weights([1, 1], 3).tolist() == [0, 1 / 3, 0]
    assert class_weights([0], ["a", "b"]).shape == (2,)
    weight = class_weights(truth)
    loss = nn.CrossEntropyLoss(weight=weight)
    model = nn.Linear(2, 3, rng=0)
    history = md.fit(model, [(np.ones((6, 2), np.float32), truth)], optim.SGD(model.parameters(), lr=1.0), loss, epochs=30)
    outputs = md.predict(model, np.ones((1, 2)))[0]
    np.testing.assert_allclose(outputs, outputs.mean(), atol=1e-3)  # equal weight for all, so none is preferred
    assert history[-1]["loss"] == pytest.approx(math.log(3), abs=1e-4)


# ---------------------------------------------------------------- streaming


def test_streams_over_batches_are_figures_over_all():
    rng = np.random.default_rng(0)
    outputs, truth = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    truth[::7] = -100  # ignored
    known = truth >= 0
    batches = [(outputs[i : i + 13], truth[i : i + 13]) for i in range(0, 50, 13)]
    metrics = {"f1": train.f1, "weighted": lambda m: train.recall(m, "weighted"), "top2": TopK(2), "area": ROCAUC()}
    result = md.evaluate(nn.Identity(), batches, metrics=metrics)
    matrix = confusion_matrix(truth[known], outputs[known].argmax(1), 4)
    p = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    assert list(result) == ["loss", "accuracy", "f1", "weighted", "top2", "area"]
    assert result["f1"] == train.f1(matrix)
    assert result["weighted"] == train.recall(matrix, "weighted")
    assert result["top2"] == train.top_k_accuracy(outputs, truth, 2)
    assert result["area"] == pytest.approx(roc_auc(truth[known], p[known]), rel=1e-12)
    assert result["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert md.evaluate(nn.Identity(), batches, metrics=metrics) == result  # nothing is left over in the metrics


def test_maps_of_labels():
    rng = np.random.default_rng(1)
    outputs, truth = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.integers(0, 3, (2, 4, 5))
    matrix, top, area = ConfusionMatrix(), TopK(2), ROCAUC()
    for metric in (matrix, top, area):
        for i in (0, 1):
            metric.update(md.Tensor(outputs[i : i + 1]), md.Tensor(truth[i : i + 1]))
    assert matrix.compute().tolist() == confusion_matrix(truth, outputs.argmax(1), 3).tolist()
    assert top.compute() == train.top_k_accuracy(outputs, truth, 2)
    flat = np.moveaxis(outputs.astype(float), 1, -1).reshape(-1, 3)
    assert area.compute() == pytest.approx(roc_auc(truth.ravel(), np.exp(flat) / np.exp(flat).sum(1, keepdims=True)))


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_a_single_output_is_a_logit(shape):
    outputs = np.array([-2.0, -1.0, 0.5, 1.0, 3.0, -0.5]).reshape(shape)
    truth = np.array([0, 1, 1, 0, 1, 0])
    for given in (truth, truth.astype(float).reshape(shape), truth.astype(bool)):
        matrix, area = ConfusionMatrix(), ROCAUC()
        matrix.update(outputs, given)
        area.update(outputs, given)
        assert matrix.compute().tolist() == [[2, 1], [1, 2]]
        assert area.compute() == roc_auc(truth, outputs)
    strict = ConfusionMatrix(threshold=2.0)
    strict.update(outputs, truth)
    assert strict.compute().tolist() == [[3, 0], [2, 1]]


def test_large_logits_of_two_classes_keep_their_order():
    area = ROCAUC()
    area.update(np.array([[0.0, 100.0], [0.0, 200.0], [0.0, 300.0]]), np.array([1, 0, 1]))
    assert area.compute() == 0.5


def test_probabilities_are_taken_as_they_are():
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(3), 40)
    truth = rng.integers(0, 3, 40)
    area = ROCAUC("weighted", logits=False)
    area.update(p, truth)
    assert area.compute() == roc_auc(truth, p, "weighted")


def test_fit_logs_metrics():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    batches = [(x, (x[:, 0] > 0).astype(int))]
    model = nn.Linear(2, 2, rng=0)
    frozen = optim.SGD(model.parameters(), lr=0.0)
    history = md.fit(model, batches, frozen, validation=batches, metrics=[train.f1, ROCAUC()])
    columns = ["loss", "accuracy", "f1", "roc_auc"]
    assert history.columns == ["epoch", *columns, *(f"val_{c}" for c in columns), "seconds", "images_per_second"]
    assert history[0]["val_f1"] == history[0]["f1"]
    assert history[0]["val_roc_auc"] == history[0]["roc_auc"]


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (train.f1, DtypeError, r"metrics as a dictionary or a list, got .* Write metrics=\[...\]"),
        ("f1", DtypeError, "metrics as a dictionary or a list"),
        ([TopK], DtypeError, "metric 'TopK' as a function of a confusion matrix or a metric"),
        ({"a": 3}, DtypeError, "metric 'a' as a function"),
        ([lambda m: 0.0], ArgumentError, r"metrics with names, .* Name them"),
        ([train.f1, train.f1], ArgumentError, "every name of a metric once, got f1, f1"),
        ({"loss": train.f1}, ArgumentError, "no other column, got 'loss'"),
        ({"val_f1": train.f1}, ArgumentError, "no other column"),
    ],
)
def test_bad_metrics(metrics, error, message):
    with pytest.raises(error, match=message):
        md.evaluate(nn.Identity(), [(np.eye(2), np.array([0, 1]))], metrics=metrics)


def test_a_metric_has_to_be_one_number():
    with pytest.raises(ShapeError, match=r"metric 'each': expected one number, got shape \(2,\). Choose an average"):
        md.evaluate(nn.Identity(), [(np.eye(2), np.array([0, 1]))], metrics={"each": lambda m: train.f1(m, None)})


MATRIX = np.array([[2, 1], [0, 3]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.f1(np.ones((2, 3), int)), ArgumentError, r"f1: expected a confusion matrix .* Make one"),
        (lambda: train.recall(np.ones((2, 2))), ArgumentError, "confusion matrix"),
        (lambda: train.precision(MATRIX, "samples"), ArgumentError, "average as one of 'macro', 'micro'"),
        (lambda: train.precision(np.eye(3, dtype=int), "binary"), ArgumentError, "two classes for average='binary', got 3"),
        (lambda: train.precision(MATRIX, "binary", positive=2), ArgumentError, "positive as class 0 or 1"),
        (lambda: train.precision(MATRIX, zero_division=0.5), ArgumentError, "zero_division as 0, 1, NaN or 'warn', got 0.5"),
        (lambda: classification_report(MATRIX, ["a"]), ArgumentError, "2 names, one per class, got 1"),
        (lambda: roc_auc([0, 1], [0.1]), ShapeError, "roc_auc: expected labels"),
        (lambda: roc_auc([0, 2], [0.1, 0.2]), ArgumentError, "labels from 0 to 1"),
        (lambda: roc_auc([0, 1], [0.1, np.nan]), ArgumentError, "scores without NaN"),
        (lambda: roc_auc([0.0, 1.0], [0.1, 0.2]), DtypeError, "labels as integers"),
        (lambda: roc_auc([0, 1], [0.1, 0.2], "micro"), ArgumentError, "average as one of"),
        (lambda: class_weights([0, 3], 2), ArgumentError, "labels from 0 to 1"),
        (lambda: TopK(0), ArgumentError, "TopK: expected k of at least 1"),
        (lambda: TopK(3).update(np.eye(2), np.array([0, 1])), ArgumentError, "at least k=3 classes"),
        (lambda: ConfusionMatrix().compute(), ArgumentError, "at least one batch, got none"),
        (lambda: ConfusionMatrix().update(np.eye(2), np.array([0.0, 1.0])), DtypeError, "labels as integers"),
        (lambda: ConfusionMatrix().update(np.eye(2, dtype=int), np.array([0, 1])), DtypeError, "outputs as float scores"),
        (lambda: ConfusionMatrix().update(np.zeros(2), np.array([0, 2])), ArgumentError, "labels 0 and 1 for a single output"),
        (lambda: ConfusionMatrix().update(np.eye(2), np.array([0])), ShapeError, "outputs"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_another_number_of_classes_is_noticed():
    matrix = ConfusionMatrix()
    matrix.update(np.eye(2), np.array([0, 1]))
    with pytest.raises(ShapeError, match="outputs for 2 classes, as before, got 3"):
        matrix.update(np.eye(3), np.array([0, 1, 2]))


# ---------------------------------------------------------------- cross-validation


def blobs(n=60):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = np.array([[0, 2], [2, -1], [-2, -1]])[y] + 0.4 * rng.normal(size=(n, 2))
    return md.data.ArrayDataset(x.astype(np.float32), y)


def test_cross_validation_has_a_fresh_model_for_every_part():
    models, seen = [], []

    class Look(train.Callback):
        def on_epoch_end(self, state):
            seen.append(state.epoch)

    def make_model():
        models.append(nn.Linear(2, 3, rng=len(models)))
        return models[-1]

    result = train.cross_validate(
        make_model,
        blobs(),
        k=4,
        epochs=3,
        batch_size=8,
        make_optimizer=lambda model: optim.SGD(model.parameters(), lr=0.5),
        make_callbacks=lambda model, optimizer: [Look()],
        metrics=[train.f1],
        rng=0,
    )
    assert len(models) == len(result.folds) == len(result.histories) == 4
    assert seen == [1, 2, 3] * 4
    for fold, history in zip(result.folds, result.histories):
        assert fold == {name: history[-1][f"val_{name}"] for name in ("loss", "accuracy", "f1")}
        assert fold["f1"] > 0.9
    values = [fold["f1"] for fold in result.folds]
    assert result.mean["f1"] == pytest.approx(np.mean(values))
    assert result.std["f1"] == pytest.approx(np.std(values, ddof=1))
    assert str(result).splitlines()[2].startswith("f1")


def test_cross_validation_repeats_with_the_same_seed():
    def run():
        return train.cross_validate(lambda: nn.Linear(2, 3, rng=0), blobs(), k=3, epochs=1, rng=5).folds

    assert run() == run()


def test_cross_validation_errors():
    with pytest.raises(DtypeError, match="cross_validate: expected make_model as a function that makes a model, got Linear"):
        train.cross_validate(nn.Linear(2, 3), blobs())
    model = nn.Linear(2, 3)
    with pytest.raises(ArgumentError, match="a new model for every part, got the same one again"):
        train.cross_validate(lambda: model, blobs(), k=3, epochs=1)
    with pytest.raises(ArgumentError, match="k from 2"):
        train.cross_validate(lambda: nn.Linear(2, 3), blobs(), k=1)
