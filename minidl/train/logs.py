"""Where training is written down while it runs: a bar and a line per epoch, a CSV table, TensorBoard's event files."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import ArgumentError
from minidl.ops._arguments import integer
from minidl.train.callbacks import Callback, State


class Progress(Callback):
    """A bar that runs through each epoch, in a terminal or a notebook, and one printed line per epoch.

    The line: ``epoch 3/10  loss 0.1234  accuracy 0.9650  val_loss 0.1300  val_accuracy 0.9610  12,345 images/s``.
    Metrics of ``fit`` come after the accuracies.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 2, rng=0)
    >>> optimizer = md.optim.SGD(model.parameters(), lr=0.1)
    >>> batches = [(np.eye(2, dtype=np.float32), np.array([0, 1]))]
    >>> _ = md.fit(model, batches, optimizer, epochs=2, callbacks=[md.train.Progress()])
    epoch 1/2  loss ...  accuracy ...  ... images/s
    epoch 2/2  loss ...  accuracy ...  ... images/s
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def on_batch_end(self, state: State) -> None:
        """Move the bar, which opens after a first batch: what that one has to say while kernels compile stays readable."""
        if self._bar is None and (kind := _bar_kind()) is not None:
            name = f"epoch {state.epoch}/{state.epochs}"
            self._bar = kind(total=state.batches, initial=state.batch - 1, desc=name, unit="batch", leave=False)
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in state.logs.items()}, refresh=False)
            self._bar.update()

    def on_epoch_end(self, state: State) -> None:
        """Close the bar and print the line."""
        self._close()
        parts = [f"epoch {state.epoch}/{state.epochs}"]
        hidden = ("epoch", "lr", "seconds", "images_per_second")
        parts += [f"{name} {value:.4f}" for name, value in state.logs.items() if name not in hidden]
        print("  ".join(parts) + f"  {state.logs['images_per_second']:,.0f} images/s", flush=True)

    def on_train_end(self, state: State) -> None:
        """Close the bar that an interruption left open."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar_kind() -> Any:
    """tqdm's bar for this place; None where output goes to a file."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    notebook = type(shell).__name__ == "ZMQInteractiveShell"
    if notebook and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_tqdm

        return notebook_tqdm
    if not notebook and not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm


class CSVLog(Callback):
    """Write the history to a CSV file after every epoch; whoever looks finds a whole table at any time.

    A run that goes on from a checkpoint writes the rows of before too.

    Args:
        path: the file; folders that do not exist are made.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 2, rng=0)
    >>> batches = [(np.eye(2, dtype=np.float32), np.array([0, 1]))]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "history.csv")
    ...     _ = md.fit(model, batches, md.optim.SGD(model.parameters()), epochs=2, callbacks=[md.train.CSVLog(path)])
    ...     print(path.read_text().splitlines()[0])
    epoch,loss,accuracy,seconds,images_per_second
    """

    late = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_begin(self, state: State) -> None:
        """Make the folder, so that a wrong path is found before the work is done."""
        if self.path.is_dir():
            raise ArgumentError.of("CSVLog", "the path of a file", f"the folder {str(self.path)!r}")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, state: State) -> None:
        """Write."""
        state.history.to_csv(self.path)


class TensorBoard(Callback):
    """Write event files that TensorBoard shows: every column of the history per epoch, the loss also while it runs.

    Needs tensorboardX: ``pip install 'minidl[tensorboard]'``. Then ``tensorboard --logdir runs``.

    Args:
        folder: where the files go; made if it does not exist.
        batches: after how many batches the running loss and accuracy are written; 0 for never.
        histograms: also write the distribution of every parameter after each epoch.

    Raises:
        ImportError: tensorboardX is not installed.
        ArgumentError: a negative number of batches.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 2, rng=0)
    >>> callbacks = [md.train.TensorBoard("runs/first")]  # doctest: +SKIP
    """

    late = True

    def __init__(self, folder: str | Path, batches: int = 50, histograms: bool = False) -> None:
        try:
            import tensorboardX  # noqa: F401  (the error belongs here, not after an hour of preparation)
        except ImportError as error:
            raise ImportError("TensorBoard: expected tensorboardX. Install it: pip install 'minidl[tensorboard]'.") from error
        self.folder = Path(folder)
        self.batches = integer("TensorBoard", "batches", batches, 0)
        self.histograms = histograms
        self._writer: Any = None

    def on_train_begin(self, state: State) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def _open(self, step: int) -> Any:
        """The file, which opens with the first entry; TensorBoard forgets what an earlier run wrote from there on."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        return self._writer

    def on_batch_end(self, state: State) -> None:
        """Write the running figures."""
        if self.batches and state.batch % self.batches == 0:
            for name, value in state.logs.items():
                self._open(state.step).add_scalar(f"batch/{name}", value, state.step)

    def on_epoch_end(self, state: State) -> None:
        """Write the row, by steps of the optimizer."""
        writer = self._open(state.step)
        for name, value in state.logs.items():
            if name.startswith("val_"):
                name = f"{name.removeprefix('val_')}/validation"
            elif f"val_{name}" in state.logs:
                name = f"{name}/training"
            writer.add_scalar(name, value, state.step)
        for name, p in state.model.named_parameters() if self.histograms else ():
            values = p.numpy()
            if values.size and np.isfinite(values).all():
                writer.add_histogram(f"parameters/{name}", values, state.step)
        writer.flush()

    def on_train_end(self, state: State) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
