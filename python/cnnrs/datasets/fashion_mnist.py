"""Fashion-MNIST: 70,000 grey 28 x 28 images of clothes in ten classes (Zalando SE, MIT licence).

The functions look in `$CNNRS_DATA/fashion_mnist/`, then in the cache, then download from a mirror.
Labels 0 to 9: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.
"""

from ._store import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Source

__all__ = ["load_data", "test_images", "test_labels", "train_images", "train_labels"]

SOURCE = Source(
    name="fashion_mnist",
    title="Fashion-MNIST",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    sha256={
        TRAIN_IMAGES: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        TRAIN_LABELS: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        TEST_IMAGES: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        TEST_LABELS: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)

train_images = SOURCE.train_images
train_labels = SOURCE.train_labels
test_images = SOURCE.test_images
test_labels = SOURCE.test_labels
load_data = SOURCE.load_data
