"""Train a network, write it as an ONNX file, and let onnxruntime predict from it.

    pip install "cnnrs[onnx]" onnxruntime
    python examples/export_onnx.py

It takes the images that come with cnnrs, as bytes: the network itself divides them by 255. Without
onnxruntime it says so and does nothing.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from cnnrs import Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling, Sequential
from cnnrs.datasets import mnist
from cnnrs.utils import set_random_seed

try:
    import onnxruntime
except ModuleNotFoundError:
    print("onnxruntime is not installed, so that nothing can run: pip install onnxruntime")
    sys.exit()

set_random_seed(0)
(x_train, y_train), (x_test, y_test) = mnist.load_data("sample")

model = Sequential(
    [
        Input((28, 28, 1)),
        Rescaling(1 / 255),
        Conv2D(16, 3, activation="relu"),
        MaxPooling2D(2),
        Flatten(),
        Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x_train, y_train, epochs=3, verbose=0)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "digits.onnx")
    model.export(path, input_dtype="uint8")
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    session = onnxruntime.InferenceSession(path)

(probabilities,) = session.run(["output"], {"input": x_test[..., np.newaxis]})
difference = np.abs(probabilities - model.predict(x_test)).max()
right = (probabilities.argmax(axis=1) == y_test).mean()
print(f"onnxruntime: {right:.1%} right, at most {difference:.0e} from what cnnrs predicts")
