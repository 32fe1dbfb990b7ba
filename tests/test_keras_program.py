"""The tutorial's program for Keras, with its import lines changed."""

import numpy as np
import pytest

from cnnrs.utils import set_random_seed


def test_the_tutorials_keras_program_learns(capsys: pytest.CaptureFixture[str]) -> None:
    from cnnrs.datasets import mnist
    from cnnrs.layers import Conv2D, Dense, Flatten, MaxPooling2D
    from cnnrs.models import Sequential
    from cnnrs.optimizers import SGD
    from cnnrs.utils import to_categorical

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
    history = model.fit(
        train_images,
        to_categorical(train_labels),
        batch_size=1,
        epochs=3,
        validation_data=(test_images, to_categorical(test_labels)),
    )

    assert model.count_params() == 8 * 9 + 13 * 13 * 8 * 10 + 10
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.history["accuracy"] == sorted(history.history["accuracy"])
    assert history.history["val_accuracy"][-1] > 0.87
    out = capsys.readouterr().out
    assert [line.split(" - ")[0] for line in out.splitlines()] == [
        "Epoch 1/3",
        "5000/5000",
        "Epoch 2/3",
        "5000/5000",
        "Epoch 3/3",
        "5000/5000",
    ]
    classes = model.predict_classes(test_images)
    assert (classes == test_labels).mean() == pytest.approx(history.history["val_accuracy"][-1])
