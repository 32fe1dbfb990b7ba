"""Train a network in Keras, and take its weights over.

    pip install tensorflow
    python examples/from_keras.py

It takes the images that come with cnnrs. Without Keras it says so and does nothing.
"""

import sys

import numpy as np

import cnnrs
from cnnrs.datasets import mnist

try:
    import keras
except ModuleNotFoundError:
    print("Keras is not installed, so that there is nothing to take over: pip install tensorflow")
    sys.exit()


def network(of):
    """The same network of Keras's layers or of cnnrs's, which have the same names."""
    return of.Sequential(
        [
            of.layers.Input((28, 28, 1)),
            of.layers.Rescaling(1 / 255),
            of.layers.Conv2D(16, 3, activation="relu"),
            of.layers.MaxPooling2D(2),
            of.layers.Flatten(),
            of.layers.Dense(10, activation="softmax"),
        ]
    )


keras.utils.set_random_seed(0)
(x_train, y_train), (x_test, y_test) = mnist.load_data("sample")
x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]

theirs = network(keras)
theirs.compile("adam", "sparse_categorical_crossentropy")
theirs.fit(x_train, y_train, epochs=1, verbose=0)

ours = network(cnnrs)
ours.set_weights(theirs.get_weights())

difference = np.abs(ours.predict(x_test) - theirs.predict(x_test, verbose=0)).max()
right = (ours.predict_classes(x_test) == y_test).mean()
print(f"cnnrs: {right:.1%} right, at most {difference:.0e} from what Keras predicts")
