"""The table over all runs in the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import table

FOLDER = Path(__file__).parent
LOG = FOLDER / "log"

HEAD = """# Accuracy on real data

Every row is a run of `python -m benchmarks.accuracy`; its history is the JSON file in `log/`. minidl and PyTorch start from the
same weights and see the same batches. The learning rate rises for 30 % of the steps and falls in the others; momentum is
constant. The accuracy is that of the test set after the last epoch, never the best of several. Seconds were taken while the
machine may have done other work. The JPEG copies of CIFAR-10 are packed hard, to about 1 KB an image: what is reached on them
compares only with each other.
"""


def records() -> list[dict[str, Any]]:
    """All runs, in the order of their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(LOG.glob("*.json"))]


def write(recipes: Mapping[str, tuple[str, float | None]]) -> Path:
    """Write README.md from the log; ``recipes`` gives each one's title and target."""
    header = ["recipe", "framework", "epochs", "seed", "optimizer", "test accuracy", "target", "last loss", "seconds per epoch"]
    rows = []
    for record in records():
        title, target = recipes[record["recipe"]]
        last = record["history"][-1]
        seconds = sorted(row["seconds"] for row in record["history"])[len(record["history"]) // 2]
        rows.append(
            [
                *(title, record["framework"], str(record["epochs"]), str(record["seed"])),
                f"{record['optimizer']}, one cycle to {record['max_lr']:g}" + (", crop and flip" if record["augment"] else ""),
                *(f"{last['test_accuracy']:.2f} %", "" if target is None else f"{target:.1f} %", f"{last['loss']:.4f}"),
                f"{seconds:.1f}",
            ]
        )
    path = FOLDER / "README.md"
    path.write_text(f"{HEAD}\n{table(header, rows)}\n", encoding="utf-8")
    return path
