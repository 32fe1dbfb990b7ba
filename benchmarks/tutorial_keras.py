"""The Keras program of the tutorial "CNNs from scratch" (Victor Zhou, 2019).

`keras_program.py` runs it. It is written for Keras 2 and the package `mnist`.
"""

import mnist
import numpy as np
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
from keras.models import Sequential
from keras.optimizers import SGD
from keras.utils import to_categorical

train_images = mnist.train_images()
train_labels = mnist.train_labels()
test_images = mnist.test_images()
test_labels = mnist.test_labels()

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
