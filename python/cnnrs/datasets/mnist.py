"""MNIST: 70,000 grey 28 x 28 images of handwritten digits (Y. LeCun and C. Cortes).

The functions look in `$CNNRS_DATA/mnist/`, then in the cache, then download from a mirror. With
`"sample"` they read the 5,000 training and 1,000 test images that come with the package instead.
"""

from ._store import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Source

__all__ = ["load_data", "test_images", "test_labels", "train_images", "train_labels"]

SOURCE = Source(
    name="mnist",
    title="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    sha256={
        TRAIN_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        TRAIN_LABELS: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        TEST_LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    has_sample=True,
)

train_images = SOURCE.train_images
train_labels = SOURCE.train_labels
test_images = SOURCE.test_images
test_labels = SOURCE.test_labels
load_data = SOURCE.load_data
