"""The tutorial's Keras program as one would write it in PyTorch, without a `DataLoader`.

The loop takes its images from a tensor in a random order, which is the fastest way; and it keeps no
running loss and accuracy, as Keras and cnnrs do.
"""

import os
import time
from typing import Any


def run(data: str, seed: int) -> dict[str, Any]:
    """Train for 3 epochs at batch 1, and validate after each; seconds, steps and accuracy."""
    start = time.perf_counter()
    import numpy as np
    import torch
    from torch import nn

    imported = time.perf_counter()
    torch.manual_seed(seed)
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    with np.load(data) as arrays:
        train_images, test_images = (
            torch.from_numpy(arrays[name] / np.float32(255) - np.float32(0.5)).unsqueeze(1)
            for name in ("train_images", "test_images")
        )
        train_labels, test_labels = (
            torch.from_numpy(arrays[name].astype(np.int64))
            for name in ("train_labels", "test_labels")
        )
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(13 * 13 * 8, 10)
    )
    for parameter in model.parameters():  # as Keras and cnnrs begin
        nn.init.xavier_uniform_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    prepared = time.perf_counter()

    epochs = 3
    for _ in range(epochs):
        for i in torch.randperm(len(train_images)).tolist():
            optimizer.zero_grad()
            outputs = model(train_images[i : i + 1])
            nn.functional.cross_entropy(outputs, train_labels[i : i + 1]).backward()
            optimizer.step()
        with torch.inference_mode():
            right = sum(
                (model(x).argmax(1) == y).sum().item()
                for x, y in zip(test_images.split(1000), test_labels.split(1000), strict=True)
            )
    seconds = {
        "imports": imported - start,
        "fit": time.perf_counter() - prepared,
        "rest": prepared - imported,
    }
    steps = epochs * len(train_images)
    return {"seconds": seconds, "steps": steps, "accuracy": right / len(test_images)}
