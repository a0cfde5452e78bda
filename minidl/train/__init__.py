"""Training: one readable loop, what may watch it, and the figures that judge the result."""

from minidl.train.callbacks import Callback, Checkpoint, EarlyStopping, History, Progress, Schedule, State
from minidl.train.loop import NonFiniteLoss, evaluate, fit, predict
from minidl.train.metrics import accuracy, confusion_matrix, top_k_accuracy

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "NonFiniteLoss",
    "Progress",
    "Schedule",
    "State",
    "accuracy",
    "confusion_matrix",
    "evaluate",
    "fit",
    "predict",
    "top_k_accuracy",
]
