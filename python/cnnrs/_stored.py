"""A model and files: what `Sequential` does with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, cast

from cnnrs import saving
from cnnrs._checks import only
from cnnrs._structure import Structure

if TYPE_CHECKING:
    from cnnrs.models import Sequential


class Stored(Structure):
    """A model that is written to files and read from them."""

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the whole model to one file, from which `cnnrs.load_model` makes an equal one.

        The file holds the layers, the weights, what the model was compiled with, what the optimizer
        has gathered and the state of the random numbers, so that training goes on as if there had
        been no file. It is in the safetensors format, and runs no code when loaded. Nobody ever
        sees half of it: it is written beside `filepath` and then renamed.

        An initializer that is a user's function or class is not saved; the loaded layer has its
        default one, while the weights are those of this model. Attributes that the user gave the
        model are not saved either, and a subclass of `Sequential` is loaded as a `Sequential`.

        Args:
            filepath: the file's path, which ends in `.safetensors`.
            overwrite: whether to replace such a file, True by default.

        Raises:
            FileExistsError: if there is such a file that is not to be replaced.
            ValueError: if the path ends otherwise, or the model holds what no file can: a learning
                rate that is a function, a layer, loss or optimizer of the user's own, or in a model
                that is not built an initializer of that kind.
            OSError: if the file cannot be written.

        Reference: `keras.Model.save`.

        Example:
            >>> import tempfile
            >>> import cnnrs
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((4,)), Dense(3)])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save(f"{folder}/model.safetensors")
            ...     twin = cnnrs.load_model(f"{folder}/model.safetensors")
            >>> twin.layers
            [<Dense name=dense>]
        """
        saving.save_model(cast("Sequential", self), filepath, overwrite)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights to a file, for `load_weights` of a model with the same layers.

        Args:
            filepath: the file's path, which ends in `.safetensors`.
            overwrite: whether to replace such a file, True by default.

        Raises:
            FileExistsError: if there is such a file that is not to be replaced.
            ValueError: if the path ends otherwise, or the model is not built.
            OSError: if the file cannot be written.

        Reference: `keras.Model.save_weights`.

        Example:
            >>> import tempfile
            >>> from cnnrs import Dense, Input, Sequential
            >>> model, twin = (Sequential([Input((4,)), Dense(3)]) for _ in range(2))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_weights(f"{folder}/weights.safetensors")
            ...     twin.load_weights(f"{folder}/weights.safetensors")
            >>> bool((twin.get_weights()[0] == model.get_weights()[0]).all())
            True
        """
        saving.save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Replace all weights by those that `save_weights` or `save` wrote.

        What the optimizer has gathered stays. If anything is wrong, no weight is replaced.

        Args:
            filepath: the file's path.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if the model is not built, or the file is damaged, no such file, or of a
                model whose weights have other names, shapes or another dtype.

        Reference: `keras.Model.load_weights`.

        Example:
            >>> from cnnrs import Dense, Input, Sequential
            >>> Sequential([Input((4,)), Dense(3)]).load_weights("none.safetensors")
            Traceback (most recent call last):
            FileNotFoundError: [Errno 2] No such file or directory: 'none.safetensors'
        """
        saving.load_weights(self, filepath)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: Literal["onnx"] = "onnx",
        *,
        input_dtype: str = "float32",
    ) -> None:
        """Write the model as an ONNX file, which onnxruntime and others run.

        The graph takes `input` (batch, *input shape), images channels last as here, and gives
        `output` (batch, *output shape), float32. `cnnrs.export.write_onnx` says more.

        Args:
            filepath: the file to write, replaced if it is there; its name ends in `.onnx`.
            format: `"onnx"` (default).
            input_dtype: what the graph takes: `"float32"` (default), `"float64"` or `"uint8"`.

        Raises:
            ModuleNotFoundError: if the package onnx is not installed (the extra `onnx`).
            ValueError: if the model is not built, the weights are larger than an ONNX file can be,
                or the name, the format or the input type is another.
            TypeError: if it is no path, or a layer has no counterpart in ONNX here.
            OSError: if the file cannot be written.

        Reference: `keras.Model.export`.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from cnnrs import Conv2D, Input, Sequential
            >>> model = Sequential([Input((28, 28, 1)), Conv2D(8, 3)])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.export(Path(folder, "model.onnx"))
            ...     [path.name for path in Path(folder).iterdir()]
            ['model.onnx']
        """
        from cnnrs.export import write_onnx

        only("format", format, "onnx")
        write_onnx(self, filepath, input_dtype)
