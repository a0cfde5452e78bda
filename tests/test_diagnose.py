"""The training doctor: every fault that is put into a training is found by its name, and good trainings have none."""

import copy
import re

import numpy as np
import pytest

import minidl as md
from minidl import models, nn, optim
from minidl.data import DataLoader, mnist_mini
from minidl.train import Diagnosis, Doctor, Finding, diagnose


def blobs(n=32, features=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)).astype(np.float32), rng.integers(0, classes, n)


def images(n=8, size=8, channels=1, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, channels, size, size)).astype(np.float32), rng.integers(0, classes, n)


def mlp(*last, features=6, classes=3):
    return nn.Sequential(nn.Linear(features, 16, rng=0), nn.ReLU(), nn.Linear(16, classes, rng=1), *last)


def normed(bias=False):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=bias, rng=0), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3, rng=1)
    )


def sgd(model, lr=0.05, **options):
    return optim.SGD(model.parameters(), lr=lr, **options)


def with_optimizer(model, batch, lr=0.05, **options):
    return diagnose(model, batch, optimizer=sgd(model, lr), **options)


# ---------------------------------------------------------------- no false alarm


def digits(n, seed=0):
    return next(iter(DataLoader(mnist_mini()[1], batch_size=n, shuffle=True, rng=seed)))


HEALTHY = {
    "mlp": lambda: (mlp(), blobs()),
    "LeNet5": lambda: (models.LeNet5(rng=0), digits(32)),
    "SmallCNN": lambda: (models.SmallCNN(rng=0), digits(32)),
    "MnistCNN": lambda: (models.MnistCNN(rng=0), digits(32)),
    "CifarCNN": lambda: (models.CifarCNN(rng=0), images(16, 32, 3, 10)),
    "resnet20": lambda: (models.resnet20(rng=0), images(8, 32, 3, 10)),
    "normed": lambda: (normed(), images()),
}
OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, lr=1e-3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", HEALTHY)
def test_good_trainings_have_no_finding(name, optimizer):
    model, batch = HEALTHY[name]()
    assert str(diagnose(model, batch, optimizer=OPTIMIZERS[optimizer](model.parameters()))) == "nothing found"


def test_other_good_losses_have_no_finding():
    x, y = blobs()
    column = y[:, None].astype(np.float32)
    assert not diagnose(mlp(classes=1), (x, column), md.mse_loss)
    assert not diagnose(mlp(classes=1), (x, column > 0), md.binary_cross_entropy_with_logits)
    assert not diagnose(mlp(nn.Sigmoid(), classes=1), (x, column > 0), md.binary_cross_entropy)
    assert not diagnose(mlp(nn.LogSoftmax()), (x, y), md.nll_loss)
    assert not diagnose(mlp(), (x, np.eye(3, dtype=np.float32)[y]), md.cross_entropy)
    assert not diagnose(mlp(), (x, y), nn.CrossEntropyLoss(label_smoothing=0.1))


# ---------------------------------------------------------------- a fault each


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3, rng=0), nn.Linear(6, 3, rng=1)

    def forward(self, x):
        return self.used(x)


def dead():
    model = mlp()
    model[0].bias.data = np.full(16, -100.0)
    return model


def exploding():
    model = nn.Sequential(*(nn.Linear(6, 6, rng=i) for i in range(8)), nn.Linear(6, 3, rng=9))
    for layer in model:
        layer.weight.data = layer.weight.data * 30
    return model


def vanishing():
    layers = [layer for i in range(14) for layer in (nn.Linear(6, 6, rng=i), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(6, 3, rng=99))


def evaluated(model):
    model.eval()
    return model


def broken(batch, index, value):
    batch[index][0] = value
    return batch


def own_loss(output, y):
    return ((output - y) ** 2).mean()


X, Y = blobs()
PICTURES = images()
REAL = Y.astype(np.float32)
FAULTS = {  # what is diagnosed: the names of the findings, what is said of the first
    "softmax": (lambda: diagnose(mlp(nn.Softmax()), (X, Y)), ["softmax_before_loss"], "scores themselves"),
    "softmax, loss as a module": (
        lambda: diagnose(mlp(nn.Softmax()), (X, Y), nn.CrossEntropyLoss()), ["softmax_before_loss"], "softmax"),
    "softmax and reshape": (
        lambda: diagnose(mlp(nn.Softmax(), nn.Flatten()), (X, Y)), ["softmax_before_loss"], "softmax"),
    "sigmoid": (lambda: diagnose(mlp(nn.Sigmoid(), classes=1), (X, Y[:, None] > 0), md.binary_cross_entropy_with_logits),
        ["sigmoid_twice"], "binary_cross_entropy"),
    "softmax before nll": (lambda: diagnose(mlp(nn.Softmax()), (X, Y), md.nll_loss), ["nll_without_log"], "made by softmax"),
    "scores before nll": (lambda: diagnose(mlp(), (X, Y), md.nll_loss), ["nll_without_log"], "cross_entropy"),
    "relu on scores": (lambda: diagnose(mlp(nn.ReLU()), (X, Y)), ["activation_on_logits"], "Leave out the relu"),
    "broadcast": (lambda: diagnose(mlp(classes=1), (X, REAL), own_loss), ["broadcast_in_loss"], r"\(32, 1\) and \(32,\)"),
    "broadcast that the loss refuses": (
        lambda: diagnose(mlp(classes=1), (X, REAL), md.mse_loss), ["broadcast_in_loss"], r"reshape\(32, 1\)"),
    "one-hot": (lambda: diagnose(mlp(), (X, np.eye(3, dtype=int)[Y])), ["one_hot_labels"], r"argmax\(1\)"),
    "loss of another kind": (lambda: diagnose(mlp(), (X, REAL)), ["loss_fails"], "astype"),
    "loss as a number": (
        lambda: diagnose(mlp(), (X, Y), lambda o, y: md.cross_entropy(o, y).item()), ["loss_fails"], "without .item"),
    "model that does not fit": (lambda: diagnose(mlp(features=5), (X, Y)), ["model_fails"], "in_features=6"),
    "evaluation mode": (lambda: diagnose(evaluated(normed()), PICTURES), ["train_forgotten"], r"model\.train\(\)"),
    "training mode": (lambda: diagnose(normed(), PICTURES, training=False), ["eval_forgotten"], r"model\.eval\(\)"),
    "unused layer": (lambda: diagnose(Unused(), (X, Y)), ["no_gradient"], "2 of 4 parameters.*'unused.weight'"),
    "part of the parameters": (lambda: (lambda m: diagnose(m, (X, Y), optimizer=sgd(m[2])))(mlp()),
        ["not_in_optimizer"], "2 of 4 parameters.*'0.weight'"),
    "other model": (lambda: diagnose(mlp(), (X, Y), optimizer=sgd(mlp())), ["other_model"], r"model\.parameters\(\)"),
    "more than the model": (lambda: (lambda m: diagnose(m, (X, Y), optimizer=optim.SGD(
        [*m.parameters(), md.Parameter([1.0])], lr=0.05)))(mlp()), ["foreign_parameters"], "1 of"),
    "dead relu": (lambda: diagnose(dead(), (X, Y)), ["dead_relu"], "100% of the 16 units.*'1'"),
    "exploding": (lambda: diagnose(exploding(), (X, Y)), ["exploding_gradients"], "clip_grad_norm"),
    "vanishing": (lambda: diagnose(vanishing(), (X, Y)), ["vanishing_gradients"], "'0.weight'"),
    "raw pixels": (lambda: diagnose(normed(), (np.abs(PICTURES[0]) * 80, PICTURES[1])), ["unnormalised_input"],
        "divide by 255"),
    "uint8": (lambda: diagnose(normed(), ((PICTURES[0] * 40 + 128).clip(0, 255).astype(np.uint8), PICTURES[1])),
        ["raw_images"], "/ 255"),
    "divided twice": (lambda: diagnose(normed(), (PICTURES[0] / 500, PICTURES[1])), ["tiny_input"], "twice"),
    "constant": (lambda: diagnose(mlp(), (np.ones_like(X), Y)), ["constant_input"], "All 32 examples"),
    "float64": (lambda: diagnose(mlp(), (X.astype(np.float64), Y)), ["float64"], r"astype\('float32'\)"),
    "large rate": (lambda: with_optimizer(mlp(), (X, Y), lr=1000.0), ["learning_rate_large"], "lr=1000"),
    "large rate, Adam": (lambda: (lambda m: diagnose(m, (X, Y), optimizer=optim.Adam(m.parameters(), lr=3.0)))(mlp()),
        ["learning_rate_large"], "lr=3"),
    "small rate": (lambda: with_optimizer(mlp(), (X, Y), lr=1e-9), ["learning_rate_small"], "lr=1e-09"),
    "test data": (lambda: with_optimizer(mlp(), [(X, Y)], validation=[(X, Y)]), ["overlap"], "32 of 32"),
    "some of the test data": (lambda: diagnose(mlp(), [(X, Y)], validation=[(np.r_[X[:2], blobs(seed=1)[0]], np.r_[Y[:2], Y])]),
        ["overlap"], "2 of 34"),
    "batch of one": (lambda: diagnose(normed(), images(1)), ["batch_of_one"], "GroupNorm"),
    "batch of one that fails": (lambda: diagnose(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), (X[:1], Y[:1])),
        ["batch_of_one"], "drop_last"),
    "bias": (lambda: diagnose(normed(bias=True), PICTURES), ["bias_before_norm"], "'0'.*bias=False"),
    "one class": (lambda: diagnose(mlp(), (X, np.ones_like(Y))), ["one_class"], "All 32 labels are 1"),
    "sorted": (lambda: diagnose(mlp(), (X, np.sort(Y))), ["sorted_labels"], "shuffle=True"),
    "sorted, one class in a batch": (lambda: diagnose(mlp(), DataLoader((X, np.sort(Y)), batch_size=8)), ["sorted_labels"],
        "32 labels"),
    "NaN": (lambda: diagnose(mlp(), broken(blobs(), 0, np.nan)), ["nan_in_data"], "6 of 192 values of the inputs"),
    "infinite target": (lambda: diagnose(mlp(classes=1), (X, np.r_[np.inf, REAL[1:]][:, None]), md.mse_loss),
        ["nan_in_data"], "1 of 32 values of the targets"),
}  # fmt: skip


@pytest.mark.parametrize(("run", "codes", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_found(run, codes, words):
    report = run()
    assert report.codes == codes, str(report)
    assert re.search(words, str(report.findings[0]), re.DOTALL), str(report)


def own_step(model, optimizer, zero=True, step=True, at_end=False):
    def run(x, y):
        if zero and not at_end:
            optimizer.zero_grad()
        md.cross_entropy(model(x), y).backward()
        if step:
            optimizer.step()
        if at_end:
            optimizer.zero_grad()

    return run


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({}, []),
        ({"at_end": True}, []),
        ({"zero": False}, ["zero_grad_forgotten"]),
        ({"step": False}, ["step_forgotten"]),
    ],
)
def test_own_steps(options, codes):
    model = mlp()
    optimizer = sgd(model)
    assert diagnose(model, (X, Y), optimizer=optimizer, step=own_step(model, optimizer, **options)).codes == codes


# ---------------------------------------------------------------- no trace, and what it says


def test_everything_is_as_before():
    class Counting(nn.Sequential):
        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Counting(*normed()[:-1], nn.Dropout(0.5, rng=3), nn.Linear(4 * 36, 3, rng=1))
    model.calls = 0
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    x, y = (md.tensor(a) for a in PICTURES)
    md.cross_entropy(model(x), y).backward()
    optimizer.step()  # there are gradients, statistics and moments now
    model[1].eval()
    loader = DataLoader(PICTURES, batch_size=4, shuffle=True)

    def everything():
        return copy.deepcopy(
            {
                "state": {name: np.array(value) for name, value in model.state_dict().items()},
                "gradients": [None if p.grad is None else p.grad.numpy() for p in model.parameters()],
                "optimizer": optimizer.state_dict(),
                "modes": [module.training for module in model.modules()],
                "random": (md.random.get_state(), model[4].rng.bit_generator.state),
                "loader": loader.state_dict(),
                "calls": model.calls,
                "hooks": [(list(m._hooks), list(m._pre_hooks)) for m in model.modules()],
            }
        )

    before = everything()
    arrays = [p._array for p in model.parameters()]
    report = diagnose(
        model, loader, optimizer=optimizer, validation=DataLoader(images(seed=5), batch_size=4), step=own_step(model, optimizer)
    )
    assert not report, report
    np.testing.assert_equal(everything(), before)
    assert all(p._array is array for p, array in zip(model.parameters(), arrays))


def test_the_same_verdict_twice():
    model = dead()
    assert str(with_optimizer(model, (X, Y), lr=1000.0)) == str(with_optimizer(model, (X, Y), lr=1000.0))


def test_on_every_device(device):
    x, y = (md.tensor(a, device=device) for a in blobs(16))
    for last, codes in (((), []), ((nn.Softmax(),), ["softmax_before_loss"])):
        model = mlp(*last).to(device)
        optimizer = optim.SGD(model.parameters(), lr=0.05)
        before = model.state_dict()
        report = diagnose(model, (x, y), optimizer=optimizer, step=own_step(model, optimizer))
        assert report.codes == codes, report
        np.testing.assert_equal(model.state_dict(), before)
    hot = mlp().to(device)
    report = diagnose(hot, (x * float("nan"), y), optimizer=sgd(hot))
    assert report.codes == ["nan_in_data"]


def test_report_reads_well():
    report = Diagnosis()
    assert str(report) == "nothing found"
    assert not report
    report.add("a", "seen 3.", "harm.", "fix.")
    report.add("a", "again", "", "")
    assert list(report) == [Finding("a", "seen 3.", "harm.", "fix.")]
    assert str(report) == "1 finding\na: seen 3.\n    why it hurts: harm.\n    fix: fix."


def test_what_cannot_be_walked_again():
    with pytest.raises(md.ArgumentError, match=r"walked again, got .* Pass a pair \(x, y\)"):
        diagnose(mlp(), iter([(X, Y)]))
    with pytest.raises(md.DtypeError, match="a Module"):
        diagnose(md.relu, (X, Y))


def test_doctor_at_work(capsys):
    model = mlp(nn.Softmax())
    doctor = Doctor()
    md.fit(model, DataLoader((X, Y), batch_size=16, shuffle=True, rng=0), sgd(model), callbacks=[doctor])
    assert doctor.report.codes == ["softmax_before_loss"]
    assert capsys.readouterr().out == f"{doctor.report}\n"


def test_doctor_changes_nothing():
    def train(callbacks):
        md.manual_seed(0)
        model = mlp()
        md.fit(model, DataLoader((X, Y), batch_size=16, shuffle=True), sgd(model), epochs=2, callbacks=callbacks)
        return model.state_dict()

    doctor = Doctor()
    np.testing.assert_equal(train([doctor]), train([]))
    assert not doctor.report


@pytest.mark.parametrize(
    ("losses", "codes"), [([1.0, 0.5, 2.0], ["loss_grows"]), ([1.0, 1.0, 1.0], ["loss_stuck"]), ([3, 2, 1], [])]
)
def test_doctor_listens(losses, codes):
    doctor, state = Doctor(verbose=False), md.train.State(mlp(), None, 3, loaders={"batches": iter([])})
    doctor.on_train_begin(state)
    for loss in losses:
        state.epoch, state.logs = state.epoch + 1, {"loss": loss}
        doctor.on_epoch_end(state)
    assert doctor.report.codes == codes
