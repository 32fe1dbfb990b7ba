"""The tutorial's Keras program as one would write it in PyTorch, without a `DataLoader`.

The loop takes its images from a tensor in a random order, which is the fastest way; and it keeps no
running loss and accuracy, as Keras and cnnrs do. It runs twice, as their `fit` does: before it
counts, with a few images.
"""

import os
import time
from typing import Any

from keras_program_child import DATA, FEW


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
        tensors = [
            torch.from_numpy(arrays[name] / np.float32(255) - np.float32(0.5)).unsqueeze(1)
            if name.endswith("images")
            else torch.from_numpy(arrays[name].astype(np.int64))
            for name in DATA
        ]
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(13 * 13 * 8, 10)
    )
    for parameter in model.parameters():  # as Keras and cnnrs begin
        nn.init.xavier_uniform_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    prepared = time.perf_counter()
    epochs = 3

    def fit(
        images: torch.Tensor, labels: torch.Tensor, test_images: torch.Tensor, tests: torch.Tensor
    ) -> float:
        for _ in range(epochs):
            for i in torch.randperm(len(images)).tolist():
                optimizer.zero_grad()
                outputs = model(images[i : i + 1])
                nn.functional.cross_entropy(outputs, labels[i : i + 1]).backward()
                optimizer.step()
            with torch.inference_mode():
                right = sum(
                    int((model(x).argmax(1) == y).sum())
                    for x, y in zip(test_images.split(1000), tests.split(1000), strict=True)
                )
        return right / len(tests)

    weights = [parameter.detach().clone() for parameter in model.parameters()]
    fit(*(tensor[:FEW] for tensor in tensors))
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)

    begun = time.perf_counter()
    accuracy = fit(*tensors)
    seconds = {
        "imports": imported - start,
        "fit": time.perf_counter() - begun,
        "rest": prepared - imported,
    }
    return {"seconds": seconds, "steps": epochs * len(tensors[0]), "accuracy": accuracy}
