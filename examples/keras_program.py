"""Train the tutorial's network with the tutorial's program for Keras, its import lines changed.

    python examples/keras_program.py

It takes the images that come with cnnrs; without "sample" it takes all of MNIST.
"""

import numpy as np

from cnnrs.datasets import mnist
from cnnrs.layers import Conv2D, Dense, Flatten, MaxPooling2D
from cnnrs.models import Sequential
from cnnrs.optimizers import SGD
from cnnrs.utils import set_random_seed, to_categorical

set_random_seed(0)

train_images = mnist.train_images("sample")
train_labels = mnist.train_labels("sample")
test_images = mnist.test_images("sample")
test_labels = mnist.test_labels("sample")

train_images = (train_images / 255) - 0.5
test_images = (test_images / 255) - 0.5
train_images = np.expand_dims(train_images, axis=3)
test_images = np.expand_dims(test_images, axis=3)

model = Sequential(
    [
        Conv2D(8, 3, input_shape=(28, 28, 1), use_bias=False),
        MaxPooling2D(pool_size=2),
        Flatten(),
        Dense(10, activation="softmax"),
    ]
)
model.compile(SGD(lr=0.005), loss="categorical_crossentropy", metrics=["accuracy"])
model.fit(
    train_images,
    to_categorical(train_labels),
    batch_size=1,
    epochs=3,
    validation_data=(test_images, to_categorical(test_labels)),
)
predictions = np.argmax(model.predict(test_images[:10]), axis=1)
print(f"predicted {predictions}, labels {test_labels[:10]}")
