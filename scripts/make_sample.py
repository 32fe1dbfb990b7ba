"""Make the sample of MNIST that comes with the package, from the full MNIST.

    python scripts/make_sample.py [FOLDER]

writes the first 5,000 training and the first 1,000 test images with their labels to FOLDER, by
default where the package keeps them. If the package zopfli is installed, they are 5 % smaller than
those of zlib, as the package's are. The same version gives the same bytes every time.
"""

import gzip
import hashlib
import sys
from pathlib import Path

from cnnrs._files import atomic_path
from cnnrs.datasets import _idx, _store, mnist

SAMPLE = Path(__file__).parents[1] / "python" / "cnnrs" / "datasets" / "sample"

# How many to keep, and the md5 of genuine MNIST's decompressed file.
PARTS = {
    _store.TRAIN_IMAGES: (mnist.train_images, 5_000, "6bbc9ace898e44ae57da46a324031adb"),
    _store.TRAIN_LABELS: (mnist.train_labels, 5_000, "a25bea736e30d166cdddb491f175f624"),
    _store.TEST_IMAGES: (mnist.test_images, 1_000, "2646ac647ad5339dbf082846283269ea"),
    _store.TEST_LABELS: (mnist.test_labels, 1_000, "27ae3e4e09519cfbb04c329615203637"),
}


def compressed(content: bytes) -> bytes:
    """As a .gz file, the same whenever it is made."""
    try:
        from zopfli.gzip import compress
    except ModuleNotFoundError:
        return gzip.compress(content, 9, mtime=0)
    return bytes(compress(content))


def main(folder: Path) -> None:
    """Write the four files to `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (read, count, genuine) in PARTS.items():
        full = read()
        found = hashlib.md5(_idx.encode(full), usedforsecurity=False).hexdigest()
        if found != genuine:
            raise SystemExit(f"{name} is not MNIST's: expected md5 {genuine}, found {found}")
        target = folder / f"{name}.gz"
        with atomic_path(target) as temporary:
            temporary.write_bytes(compressed(_idx.encode(full[:count])))
        print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE)
