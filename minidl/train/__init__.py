"""Training: one readable loop, what may watch it, and the figures that judge the result."""

from minidl.train.callbacks import Callback, EarlyStopping, History, Schedule, State
from minidl.train.checkpoint import Checkpoint, newest_checkpoint
from minidl.train.doctor import Doctor, diagnose
from minidl.train.ema import EMA
from minidl.train.finder import LearningRates, find_lr
from minidl.train.findings import Diagnosis, Finding
from minidl.train.folds import CrossValidation, cross_validate
from minidl.train.histograms import Histograms
from minidl.train.logs import CSVLog, Progress, TensorBoard
from minidl.train.loop import NonFiniteLoss, evaluate, fit, predict
from minidl.train.metrics import (
    accuracy,
    class_weights,
    classification_report,
    confusion_matrix,
    f1,
    precision,
    recall,
    roc_auc,
    top_k_accuracy,
)
from minidl.train.streaming import ROCAUC, ConfusionMatrix, TopK

__all__ = [
    "EMA",
    "ROCAUC",
    "CSVLog",
    "Callback",
    "Checkpoint",
    "ConfusionMatrix",
    "CrossValidation",
    "Diagnosis",
    "Doctor",
    "EarlyStopping",
    "Finding",
    "Histograms",
    "History",
    "LearningRates",
    "NonFiniteLoss",
    "Progress",
    "Schedule",
    "State",
    "TensorBoard",
    "TopK",
    "accuracy",
    "class_weights",
    "classification_report",
    "confusion_matrix",
    "cross_validate",
    "diagnose",
    "evaluate",
    "f1",
    "find_lr",
    "fit",
    "newest_checkpoint",
    "precision",
    "predict",
    "recall",
    "roc_auc",
    "top_k_accuracy",
]
