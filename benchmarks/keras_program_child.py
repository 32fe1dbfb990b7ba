"""The process of one run of the Keras program: `keras_program_child.py LIBRARY DATA SEED`.

It runs `tutorial_keras.py` statement by statement, each of which is timed. `fit` is called twice:
before it counts, with a few images, after which the model gets its first weights back.
"""

import ast
import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import children

PROGRAM = Path(__file__).with_name("tutorial_keras.py")

DATA = ("train_images", "train_labels", "test_images", "test_labels")

FEW = 100
"""Images of each kind in the training that is not timed, in all frameworks."""


def text(library: str) -> str:
    """The program for a library: for cnnrs with other import lines, for Keras 3 with its `lr`."""
    original = PROGRAM.read_text()
    if library == "keras":
        return original.replace("SGD(lr=", "SGD(learning_rate=")
    lines = original.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("from keras."):
            lines[number] = line.replace("from keras.", "from cnnrs.")
        elif line == "import mnist":
            lines[number] = "from cnnrs.datasets import mnist"
    return "\n".join(lines) + "\n"


def run_program(library: str, data: str, seed: int) -> dict[str, Any]:
    """Run the program; the seconds of its imports, of `fit` once warm, and of all else."""
    if library == "keras":
        os.environ["KERAS_BACKEND"] = "tensorflow"
        sys.modules["mnist"] = stand_in(data)
    seconds = {"imports": 0.0, "fit": 0.0, "rest": 0.0}
    start = time.perf_counter()
    importlib.import_module(f"{library}.utils").set_random_seed(seed)
    seconds["imports"] += time.perf_counter() - start
    names: dict[str, Any] = {}
    for statement in ast.parse(text(library)).body:
        code = compile(ast.Module([statement], []), str(PROGRAM), "exec")
        if _kind(statement) == "fit":
            weights = names["model"].get_weights()
            exec(code, names | {name: names[name][:FEW] for name in DATA})
            names["model"].set_weights(weights)
        start = time.perf_counter()
        exec(code, names)
        seconds[_kind(statement)] += time.perf_counter() - start
    steps = len(names["train_images"]) * len(names["model"].history.epoch)
    accuracy = names["model"].history.history["val_accuracy"][-1]
    return {"seconds": seconds, "steps": steps, "accuracy": float(accuracy)}


def stand_in(data: str) -> ModuleType:
    """A module with the functions of the package `mnist`, for images from a file."""
    import numpy as np

    module = ModuleType("mnist")
    with np.load(data) as arrays:
        for name in DATA:
            setattr(module, name, lambda array=arrays[name]: array)
    return module


def _kind(statement: ast.stmt) -> str:
    match statement:
        case ast.Import() | ast.ImportFrom():
            return "imports"
        case ast.Expr(ast.Call(ast.Attribute(attr="fit"))):
            return "fit"
    return "rest"


def main() -> None:
    """Run once when asked to."""
    library, data, seed = sys.argv[1:]

    def answer(request: children.Answer) -> children.Answer:
        if library == "torch":
            from keras_program_torch import run

            return run(data, int(seed))
        return run_program(library, data, int(seed))

    children.serve(answer)


if __name__ == "__main__":
    main()
