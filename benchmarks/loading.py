"""``python -m benchmarks.loading FOLDER``: how many images per second arrive, beside torch.utils.data.DataLoader.

FOLDER has one folder of image files per class. Both sides read the same files with the same number of worker processes,
crop, flip and normalise; they take turns, so that whatever else the machine does meets both. Needs torch and torchvision.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _steps(transforms: Any, options: argparse.Namespace) -> list[Any]:
    """The random transforms, of either library: they have the same names."""
    crop = transforms.RandomResizedCrop(options.size) if options.resized else transforms.RandomCrop(options.size, padding=4)
    return [crop, transforms.RandomHorizontalFlip()]


def _minidl(options: argparse.Namespace, same_steps: bool) -> Iterable:
    """minidl's loader; with ``same_steps`` each image is made a float array and normalised on its own, as torch does."""
    from minidl.data import DataLoader, ImageFolder, transforms

    steps = _steps(transforms, options)
    if same_steps:
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    dataset = ImageFolder(options.folder)
    return DataLoader(
        dataset[_chosen(len(dataset), options.images)],
        options.batch_size,
        shuffle=True,
        rng=0,
        mean=None if same_steps else MEAN,
        std=None if same_steps else STD,
        transform=transforms.Compose(steps),
        workers=options.workers,
    )


def _torch(options: argparse.Namespace) -> Iterable:
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    steps = [*_steps(transforms, options), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    dataset = datasets.ImageFolder(options.folder, transforms.Compose(steps))
    chosen = Subset(dataset, _chosen(len(dataset), options.images))
    persistent = options.workers > 0
    return DataLoader(chosen, options.batch_size, shuffle=True, num_workers=options.workers, persistent_workers=persistent)


def _chosen(n: int, images: int) -> list[int]:
    """Which images both read, from all classes."""
    return list(range(0, n, max(n // images, 1)))[:images]


def _rate(batches: Iterable) -> float:
    """Images per second over a whole epoch, so that no work is left over for the next one's time."""
    start = time.perf_counter()
    images = sum(len(x) for x, _ in batches)
    return images / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("folder", help="one folder of images per class")
    parser.add_argument("--size", type=int, default=32, help="of the crop")
    parser.add_argument("--resized", action="store_true", help="crops of random size, as for photographs")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000, help="of the folder; an epoch per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes of each loader")
    options = parser.parse_args(arguments)
    try:
        loaders = {
            "minidl": _minidl(options, same_steps=False),
            "minidl, step by step": _minidl(options, same_steps=True),
            "torch": _torch(options),
        }
    except (ImportError, ValueError, OSError) as error:
        print(f"benchmarks.loading: {error}", file=sys.stderr)
        return 2

    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for round_ in range(options.rounds + 1):  # the first one starts the workers and fills the file cache
        names = list(loaders)[:: 1 if round_ % 2 else -1]  # each goes first as often as last
        for name in names:
            rate = _rate(loaders[name])
            if round_:
                rates[name].append(rate)
        if round_:
            print(f"round {round_}: " + ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items()), flush=True)
    print(f"\nimages per second, median of {options.rounds} rounds, {options.workers} worker processes:")
    for name, values in rates.items():
        ratios = [own / torch for own, torch in zip(values, rates["torch"])]
        print(f"  {name:<22}{statistics.median(values):>9,.0f}   {statistics.median(ratios):.2f} times torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
