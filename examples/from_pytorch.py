"""Train a network in PyTorch, and take its weights over.

    pip install torch
    python examples/from_pytorch.py

It takes the images that come with cnnrs. Without PyTorch it says so and does nothing.
"""

import sys

import numpy as np

from cnnrs import Conv2D, Dense, Flatten, Input, MaxPooling2D, Sequential, from_torch
from cnnrs.datasets import mnist

try:
    import torch
    from torch import nn
except ModuleNotFoundError:
    print("PyTorch is not installed, so that there is nothing to take over: pip install torch")
    sys.exit()

torch.manual_seed(0)
(x_train, y_train), (x_test, y_test) = mnist.load_data("sample")
x_train, x_test = ((x[..., np.newaxis] / 255).astype(np.float32) for x in (x_train, x_test))

network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(14 * 14 * 16, 10),
)
images = torch.from_numpy(x_train.transpose(0, 3, 1, 2))  # PyTorch's order: (n, channels, h, w)
labels = torch.from_numpy(y_train.astype(np.int64))
optimizer = torch.optim.Adam(network.parameters())
for batch in torch.randperm(len(images)).split(32):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
    optimizer.step()

model = Sequential(
    [
        Input((28, 28, 1)),
        Conv2D(16, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Flatten(),
        Dense(10),
    ]
)
from_torch(network.state_dict(), model)

with torch.no_grad():
    theirs = network(torch.from_numpy(x_test.transpose(0, 3, 1, 2))).numpy()
ours = model.predict(x_test)
right = (ours.argmax(axis=1) == y_test).mean()
print(f"cnnrs: {right:.1%} right, at most {np.abs(ours - theirs).max():.0e} from PyTorch's outputs")
