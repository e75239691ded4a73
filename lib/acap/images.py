"""Images to learn from: scikit-learn's handwritten digits, always there, and CIFAR-10 from a folder or the hub.

``CIFAR10_DIR`` names a folder with ``cifar10_jpeg.npz`` (JPEG bytes, offsets and labels of both splits) or with the
binary version of the data set (``data_batch_1.bin`` to ``test_batch.bin``). Its Python version is a set of pickles,
which this book does not open.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.errors import BookError

DATASETS = ("digits", "cifar10")
SOURCES = ("auto", "dir", "hub", "builtin")
FILE_IMAGES = 10_000  # in each of CIFAR-10's six files: five to train on, one to test
HUB = "uoft-cs/cifar10"  # fetched by name, and only when asked for
CLASSES = 10
DIGITS_TRAIN = 1157  # of 1,797: a new form begins here, so that no form is in both splits
BINARY = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, channels, side, side) and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class ImageSet:
    name: str
    source: str  # where it came from, as a page says it
    train: Split
    test: Split


def load_images(name: str, source: str = "auto") -> ImageSet | None:
    """Return a data set; None for CIFAR-10 where no folder is named, or where ``source`` is builtin.

    source: auto or dir (the folder that CIFAR10_DIR names; never the network), hub, or builtin.
    Raises BookError for an unknown name, a folder that is missing or holds something else, or labels out of range.
    """
    if name not in DATASETS:
        raise BookError(f"the image set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    if source not in SOURCES:
        raise BookError(f"the source {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    if name == "digits":
        return _digits()
    if source == "hub":
        return _hub()
    folder = os.environ.get("CIFAR10_DIR")
    return read_cifar10(Path(folder)) if folder and source != "builtin" else None


def checked(
    name: str, source: str, splits: dict[str, tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...]
) -> ImageSet:
    """Make an ``ImageSet`` of bytes and labels; BookError if images are not of ``shape`` or labels not 0 to 9."""
    made = {}
    for split, (images, labels) in splits.items():
        fits = (
            images.dtype == np.uint8 and images.shape[1:] == shape and len(images) and labels.shape == images.shape[:1]
        )
        if not fits:
            raise BookError(
                f"the {split} images of {source} are {images.dtype} of shape {images.shape} with labels "
                f"{labels.shape}, where {name} has uint8 images of shape {shape}, one label each; name the folder of "
                f"{name}"
            )
        if labels.min() < 0 or labels.max() >= CLASSES:
            raise BookError(
                f"the {split} labels of {source} go from {labels.min()} to {labels.max()}, outside 0 to "
                f"{CLASSES - 1}; name the folder of {name}"
            )
        made[split] = Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))
    return ImageSet(name, source, made["train"], made["test"])


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits  # slow to import

    found = load_digits()
    images = (found.images * 15).astype(np.uint8)[:, None]  # 0 to 16 becomes 0 to 240, exactly
    labels = found.target
    splits = {
        "train": (images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN]),
        "test": (images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:]),
    }
    return checked("digits", "scikit-learn", splits, (1, 8, 8))


def read_cifar10(folder: Path) -> ImageSet:
    """Read CIFAR-10 from a folder, in either of its two forms; BookError if it holds neither, or a damaged one."""
    if not folder.is_dir():
        raise BookError(f"the folder {folder} that CIFAR10_DIR names does not exist; correct the variable, or unset it")
    packed = folder / "cifar10_jpeg.npz"
    try:
        found = None
        if packed.exists():
            found = checked("cifar10", packed.name, _read_jpegs(packed), (3, 32, 32))
        elif all((folder / name).exists() for name in BINARY):
            found = checked("cifar10", "the binary version", _read_binary(folder), (3, 32, 32))
    except (KeyError, IndexError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise BookError(
            f"the CIFAR-10 files in {folder} are damaged or of another set ({error}); copy them again"
        ) from None
    if found is not None:
        counts, expected = (len(found.train), len(found.test)), (5 * FILE_IMAGES, FILE_IMAGES)
        if counts != expected:
            raise BookError(
                f"the CIFAR-10 files in {folder} hold {counts[0]:,} and {counts[1]:,} images, not {expected[0]:,} and "
                f"{expected[1]:,}; copy them again"
            )
        return found
    raise BookError(
        f"the folder {folder} that CIFAR10_DIR names holds neither {packed.name} nor {BINARY[0]} and the rest of "
        "CIFAR-10's binary version; name the right folder"
    )


def _read_jpegs(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    splits = {}
    with np.load(path, allow_pickle=False) as archive:
        for split in ("train", "test"):
            data, offsets = archive[f"{split}_bytes"].tobytes(), archive[f"{split}_offsets"]
            images = [np.asarray(Image.open(io.BytesIO(data[a:b]))) for a, b in zip(offsets, offsets[1:])]
            splits[split] = np.stack(images).transpose(0, 3, 1, 2), archive[f"{split}_labels"].astype(np.int64)
    return splits


def _read_binary(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read rows of one label byte and 3,072 bytes of pixels, channel after channel."""
    rows = [np.fromfile(folder / name, np.uint8).reshape(-1, 1 + 3072) for name in BINARY]
    joined = {"train": np.concatenate(rows[:-1]), "test": rows[-1]}
    return {name: (some[:, 1:].reshape(-1, 3, 32, 32), some[:, 0].astype(np.int64)) for name, some in joined.items()}


def _hub() -> ImageSet:
    try:
        import datasets

        found = datasets.load_dataset(HUB)
    except Exception as error:  # whatever the network says
        raise BookError(f"the hub did not give {HUB} ({error}); check the network, or set CIFAR10_DIR") from None
    splits = {}
    for split in ("train", "test"):
        images = np.stack([np.asarray(image.convert("RGB")) for image in found[split]["img"]])
        splits[split] = images.transpose(0, 3, 1, 2), np.asarray(found[split]["label"])
    return checked("cifar10", f"{HUB} on the hub", splits, (3, 32, 32))
