"""JPEGs decoded, cropped and resized a second: threads, as the image source has them, beside torch's worker processes.

    python benchmarks/image_decoding.py [--images 384] [--repeats 3]

Pictures of 500 x 375 pixels, the size most common in ImageNet, with the detail of a photograph in their spectrum (1/f
noise, about 120 kB each), through random-resized crops to 224. Each way takes its turn on the same batches of 32; the
processes are a DataLoader's, which hands batches over in shared memory, and are started before the clock. Medians.
Writes benchmarks/results/image-decoding.json.
"""

import argparse
import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anybatch.data.images.decoding import opened
from anybatch.data.images.sets import ImageSet
from anybatch.data.images.views import Cropping, FileViews
from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes.freed_memory import keep_freed_memory

BATCH = 32
RESULTS = Path(__file__).parent / "results" / "image-decoding.json"


def in_memory(files: list[bytes]) -> ImageSet:
    """JPEGs in memory: what a disk takes is not measured."""
    return ImageSet(np.zeros(len(files), dtype=np.int64), ("noise",), str, lambda index: opened(files[index]))


def photograph(seed: int) -> bytes:
    """Noise whose amplitude falls as 1/f, as that of photographs does."""
    rng = np.random.default_rng(seed)
    high, wide = 375, 500
    frequency = np.hypot(np.fft.fftfreq(high)[:, None], np.fft.rfftfreq(wide)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((3, high, wide))) / np.maximum(frequency, 1 / wide)
    pixels = np.fft.irfft2(spectrum, (high, wide)).transpose(1, 2, 0)
    written = io.BytesIO()
    Image.fromarray(np.clip(128 + 50 * pixels / pixels.std(), 0, 255).astype(np.uint8)).save(
        written, "JPEG", quality=90
    )
    return written.getvalue()


def with_threads(images: ImageSet, count: int) -> FileViews:
    views = FileViews(images, 224, 3, Cropping(crop="resized", flip=True), 0, print, training=True)
    views.__dict__["_pool"] = ThreadPoolExecutor(count)
    return views


class Batches(Dataset[Tensor]):
    """Whole batches, so that a worker process does what the image source does, with one thread."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.labels) // BATCH

    def __getitem__(self, number: int) -> Tensor:
        pixels, _ = with_threads(self.images, 1)(*numbers(number))
        return torch.from_numpy(pixels)


def numbers(batch: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(BATCH, dtype=np.int64), np.arange(batch * BATCH, (batch + 1) * BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run on images does
    cores = len(os.sched_getaffinity(0))
    files = [photograph(seed) for seed in range(arguments.images)]
    images = in_memory(files)
    batches = Batches(images)
    loader = DataLoader(batches, batch_size=None, num_workers=cores, persistent_workers=True)

    def threads(count: int) -> Callable[[], object]:
        views = with_threads(images, count)
        return lambda: [views(*numbers(number)) for number in range(len(batches))]

    ways = {"1 thread": threads(1), f"{cores} threads": threads(cores), f"{cores} processes": lambda: list(loader)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append(len(batches) * BATCH / (time.perf_counter() - started))
    for name, rates in taken.items():
        print(f"{name:12} {median(rates):.0f} images/s ({min(rates):.0f} to {max(rates):.0f})")
    write_json(
        RESULTS,
        {
            "environment": {**describe_environment(), "command": ["image_decoding.py"]},
            "mean_bytes": sum(map(len, files)) / len(files),
            "load_average": os.getloadavg()[0],
            "images_per_s": taken,
        },
    )


if __name__ == "__main__":
    main()
