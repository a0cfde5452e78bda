"""minidl's models as scikit-learn estimators: ``minidl.sklearn.Classifier``.

Needs scikit-learn: ``pip install 'minidl[sklearn]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl import nn, optim, random
from minidl.backend import parse_device
from minidl.data import DataLoader
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import describe, integer, number
from minidl.train import Progress, fit, predict

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "minidl.sklearn: expected scikit-learn 1.6 or newer. Install it: pip install 'minidl[sklearn]'."
    ) from error

__all__ = ["Classifier"]

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad}


class Classifier(ClassifierMixin, BaseEstimator):
    """A neural network with the interface of scikit-learn: ``fit``, ``predict``, ``predict_proba``, ``score``.

    Works in pipelines, grid searches and cross-validation. Labels may be numbers or texts.

    Args:
        model: a function ``model(shape, classes)`` that makes a new module for examples of that shape, such as (features,)
            or (C, H, W), and that many classes; it ends in logits (N, classes). None: two linear layers with 64 hidden
            units and ReLU.
        epochs: how often to walk through the examples.
        batch_size: examples per step.
        lr: learning rate.
        optimizer: "adam", "adamw", "sgd", "rmsprop", "adagrad", or a function ``optimizer(parameters, lr=lr)``.
        class_weight: None, "balanced", or a dictionary {label: factor}.
        device: "cpu" or "cuda".
        random_state: a seed, or None for another result each time; minidl's own generator is left as it was.
        verbose: whether to print a line per epoch.

    Attributes:
        classes_: the labels, sorted; the columns of ``predict_proba``.
        model_: the trained module.
        history_: its history.
        n_features_in_: the size of axis 1 of the examples.

    Raises:
        ArgumentError, DtypeError: options out of range, in ``fit``; fewer than two classes.

    >>> import numpy as np
    >>> from minidl.sklearn import Classifier
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = np.where(X[:, 0] > 0, "right", "left")
    >>> classifier = Classifier(epochs=10, lr=0.01, random_state=0).fit(X, y)
    >>> classifier.predict([[-2.0, 0.0], [2.0, 0.0]])
    array(['left', 'right'], dtype='<U5')
    >>> classifier.score(X, y) > 0.95
    True
    """

    def __init__(
        self,
        model: Callable[[tuple[int, ...], int], nn.Module] | None = None,
        *,
        epochs: int = 20,
        batch_size: int = 32,
        lr: float = 1e-3,
        optimizer: str | Callable = "adam",
        class_weight: str | Mapping | None = None,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Classifier:
        """Make a new model and train it.

        Args:
            X: examples (N, features), or (N, ...) for models that take other shapes; uint8 images (N, C, H, W) are
                divided by 255.
            y: a label per example.

        Returns:
            The estimator.
        """
        self._check_options()
        X, y = validate_data(self, X, y, allow_nd=True, dtype=[np.float32, np.float64, np.uint8])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ArgumentError.of("Classifier.fit", "at least 2 classes", f"one class, {self.classes_[0]!r}")
        weight = None
        if self.class_weight is not None:
            weight = compute_class_weight(self.class_weight, classes=self.classes_, y=y).astype(np.float32)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.shape_ = X.shape[1:]
        with random.use_generator(np.random.default_rng(seed)):
            model = (self.model or _perceptron)(self.shape_, len(self.classes_))
            if not isinstance(model, nn.Module):
                raise DtypeError.of("Classifier.fit", "a Module from model(shape, classes)", describe(model))
            self.model_ = model.to(self.device)
            make = OPTIMIZERS[self.optimizer] if isinstance(self.optimizer, str) else self.optimizer
            batches = DataLoader((_examples(X), codes), self.batch_size, shuffle=True)
            loss = nn.CrossEntropyLoss(weight=weight).to(self.device)
            watching = [Progress()] if self.verbose else []
            self.history_ = fit(model, batches, make(model.parameters(), lr=self.lr), loss, self.epochs, callbacks=watching)
        if self.history_.interrupted:
            raise KeyboardInterrupt  # a grid search shall end too
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """How probable each class is: float64 (N, classes), columns as in ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, allow_nd=True, dtype=[np.float32, np.float64, np.uint8])
        if X.shape[1:] != self.shape_:
            raise ShapeError.of("Classifier.predict", f"examples of shape {self.shape_}, as in fit", f"{X.shape[1:]}")
        logits = predict(self.model_, _examples(X)).astype(np.float64)
        if logits.shape != (len(X), len(self.classes_)):
            expected = f"logits of shape {(len(X), len(self.classes_))} from the model"
            raise ShapeError.of("Classifier.predict", expected, f"{logits.shape}")
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each example."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take back a pickled state; arrays that joblib left in a mapped file become plain ones."""
        super().__setstate__(state)
        for tensor in (*self.model_.parameters(), *self.model_.buffers()) if hasattr(self, "model_") else ():
            if isinstance(tensor._array, np.ndarray):
                tensor._array = np.asarray(tensor._array)

    def _check_options(self) -> None:
        op = "Classifier"
        integer(op, "epochs", self.epochs, 0)
        integer(op, "batch_size", self.batch_size, 1)
        number(op, "lr", self.lr, 0)
        parse_device(self.device)
        if (self.model is not None and not callable(self.model)) or isinstance(self.model, nn.Module):
            hint = "Write lambda shape, classes: nn.Sequential(...)."
            raise DtypeError.of(op, "model as a function of shape and classes", describe(self.model), hint)
        if self.optimizer not in OPTIMIZERS if isinstance(self.optimizer, str) else not callable(self.optimizer):
            raise ArgumentError.of(op, f"optimizer as one of {', '.join(OPTIMIZERS)} or a function", repr(self.optimizer))


def _perceptron(shape: tuple[int, ...], classes: int) -> nn.Module:
    features = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes))


def _examples(X: np.ndarray) -> np.ndarray:
    """Bytes stay only where they are images, which the loader divides by 255."""
    return X if X.dtype != np.uint8 or X.ndim == 4 else X.astype(np.float32)
