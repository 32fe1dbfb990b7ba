"""The command `cnnrs`: results on standard output, progress and complaints on standard error."""

import argparse
import errno
import io
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from cnnrs import __version__
from cnnrs._files import printable
from cnnrs.recipes import RecipeError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses; 130 is a shell's own for a command that Ctrl-C ended."""

FAILURES = (OSError, ValueError, MemoryError, ModuleNotFoundError, Warning, RecipeError)
"""What a user can mend, and is told in one line."""

NO_ROOM = [getattr(errno, name, errno.ENOSPC) for name in ("ENOSPC", "EDQUOT", "EFBIG")]
"""Errors of writing: of a full disk, and of limits, of which Windows lacks one."""

BENCH_REPEATS = 9

DEBUG_HELP = "show where an error comes from"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, by default the process's own, and return its exit status.

    Example:
        >>> main(["train", "--data", "mnist-sample", "--limit", "1000", "--epochs", "1"])
        ... # doctest: +ELLIPSIS
        Data: the bundled sample of MNIST...
        0
    """
    with _standard_error():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    debug = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe, too, each line at once; letters that its encoding lacks, as escapes.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        options.check(options)
        debug = options.debug
        run: Callable[[argparse.Namespace], int | None] = options.run
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return run(options) or 0
    except KeyboardInterrupt:
        print("cnnrs: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED  # Whoever read standard output has gone.
    except FAILURES as error:
        if debug:
            traceback.print_exc()
        else:
            _complain(_message(error))
        return FAILED
    finally:
        try:
            print(end="", flush=True)
        except OSError:
            sys.stdout = None  # Or Python would flush, and complain, once more.


@contextmanager
def _standard_error() -> Iterator[None]:
    """Let what is meant for standard error go nowhere if there is none, as after `2>&-`."""
    if sys.stderr is not None:
        yield
        return
    with Path(os.devnull).open("w", errors="backslashreplace") as nowhere, redirect_stderr(nowhere):
        yield


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        file = error.filename
        if file is None and error.errno in NO_ROOM:
            file = "standard output"  # All other files that are written are named.
        if file is not None:
            return f"{file}: {error.strerror}"  # without its number
    return str(error) or type(error).__name__


def _complain(message: str) -> None:
    print(f"cnnrs: {printable(message)}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show one line, without the place in the code that `warnings.showwarning` names."""
    from tqdm import tqdm

    line = f"cnnrs: warning: {printable(message)}"
    tqdm.write(line, file=sys.stderr)  # so that a progress bar makes way


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="cnnrs", description="Small convolutional networks on the CPU."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.set_defaults(check=lambda options: None)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_inspect(commands)
    _add_bench(commands)
    _add_info(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    return parser


class _Parser(argparse.ArgumentParser):
    """One that says so if the help cannot be written, and shows how its own command is used."""

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # A command's own parser is called so by that of all, which would show its usage instead.
        options, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}")
        return options, others


class _Version(argparse.Action):
    """Like argparse's own, but that it says so if the version cannot be written."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"cnnrs {__version__}")
        parser.exit()


def _add_train(commands: Commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network by a recipe, by default the tutorial's",
        description="Train a network by a recipe and test it after every epoch; by default the "
        "tutorial's, Conv3x3(8) - MaxPool2 - Softmax(10), with SGD, one image a step.",
    )
    _recipe_option(parser, "tutorial")
    _data_option(parser, "mnist")
    parser.add_argument(
        "--limit", type=_at_least(1), metavar="N", help="train on the first N images only"
    )
    parser.add_argument(
        "--epochs",
        type=_at_least(1),
        metavar="N",
        help="how many times to train on every image (default: the recipe's, 3 for the tutorial)",
    )
    parser.add_argument(
        "--lr",
        type=_rate,
        metavar="RATE",
        help="learning rate of the recipe tutorial (default: 0.005)",
    )
    parser.add_argument(
        "--seed",
        type=_at_least(0, most=2**32 - 1),
        default=0,
        metavar="N",
        help="of the initial weights and the order of the images (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=_path,
        metavar="FOLDER",
        help="where to write model.safetensors, history.csv, report.json and, if matplotlib is "
        "installed, history.png, confusion.png and mistakes.png",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training that was cut off in the folder of --out, after its last "
        "whole epoch",
    )

    def check(options: argparse.Namespace) -> None:
        if options.resume and options.out is None:
            parser.error("--resume needs --out")

    parser.set_defaults(run=_train, check=check)


def _train(options: argparse.Namespace) -> None:
    from cnnrs.training_run import run

    run(
        data=options.data,
        recipe=options.recipe,
        limit=options.limit,
        epochs=options.epochs,
        learn_rate=options.lr,
        seed=options.seed,
        out=options.out,
        resume=options.resume,
    )


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="judge a model by test images, class by class",
        description="Print precision and recall of each class on the test images of a data set.",
    )
    parser.add_argument("model", type=_path, metavar="MODEL", help="a file of Sequential.save")
    _data_option(parser, "mnist")
    _scaling_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from cnnrs.model_commands import evaluate

    evaluate(options.model, options.data, _scaling(options), options.json)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="say what pictures show",
        description="Print for each picture the likeliest classes and their probabilities. For a "
        "model of 28x28 grey images, such as those of MNIST, a drawn or photographed digit of any "
        "size, dark or light, is cropped, scaled to 20 pixels and centred, as MNIST's makers did; "
        "for other models a picture is scaled to their size.",
    )
    parser.add_argument("model", type=_path, metavar="MODEL", help="a file of Sequential.save")
    parser.add_argument(
        "images",
        type=_path,
        nargs="+",
        metavar="IMAGE",
        help="PNG or JPEG files, or folders of them",
    )
    _scaling_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from cnnrs.model_commands import predict

    def complain(error: Exception) -> None:
        _complain(_message(error))

    scaling = _scaling(options)
    all_read = predict(options.model, options.images, scaling, options.json, complain)
    return 0 if all_read else FAILED


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a model as an ONNX file",
        description="Write a model as an ONNX file, which onnxruntime and others run.",
    )
    parser.add_argument("model", type=_path, metavar="MODEL", help="a file of Sequential.save")
    parser.add_argument("out", type=_path, metavar="FILE", help="a name that ends in .onnx")
    parser.add_argument(
        "--input-dtype",
        choices=("float32", "float64", "uint8"),
        default="float32",
        metavar="DTYPE",
        help="what the exported model takes: float32, float64 or uint8 (default: %(default)s)",
    )
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from cnnrs.model_commands import export

    export(options.model, options.out, options.input_dtype)


def _add_inspect(commands: Commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="print what a model file holds",
        description="Print a model's layers, their outputs' shapes and weights, and how it was "
        "compiled.",
    )
    parser.add_argument("model", type=_path, metavar="MODEL", help="a file of Sequential.save")
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    from cnnrs.model_commands import inspect

    inspect(options.model)


def _add_bench(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="time the tutorial's program against NumPy, or measure a recipe's accuracy",
        description="Time the tutorial's layers and its whole training step: NumPy with the "
        "tutorial's loops, vectorised NumPy, and cnnrs, in turn in one process.",
    )
    parser.add_argument(
        "--repeats",
        type=_at_least(1),
        metavar="N",
        help=f"rounds, of which the median is reported (default: {BENCH_REPEATS})",
    )
    parser.add_argument("--json", type=_path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument(
        "--plot", type=_picture, metavar="FILE", help="also draw a bar chart (.png, .svg or .pdf)"
    )
    parser.set_defaults(run=_bench)
    _add_bench_accuracy(parser.add_subparsers(title="other kinds", metavar="[KIND]"))


def _bench(options: argparse.Namespace) -> None:
    from cnnrs.bench import run

    repeats = options.repeats or BENCH_REPEATS
    run(repeats=repeats, json_file=options.json, plot_file=options.plot)


def _add_bench_accuracy(kinds: Commands) -> None:
    parser = kinds.add_parser(
        "accuracy",
        help="train by a recipe with several seeds",
        description="Train by a recipe once for each of several seeds, and print the accuracy on "
        "the test images and the time of each and of all.",
    )
    _recipe_option(parser, "fast")
    _data_option(parser, "mnist")
    parser.add_argument(
        "--seeds",
        type=_at_least(1),
        default=10,
        metavar="N",
        help="how many, from 0 on (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=_at_least(1), metavar="N", help="in place of the recipe's own"
    )
    parser.add_argument(
        "--hold-out",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="judge by the last N training images, and train on the others: for choosing a recipe "
        "without a look at the test images",
    )
    # What `bench` itself was given must not be overwritten by a default.
    parser.add_argument(
        "--json",
        type=_path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="also write them as JSON",
    )
    parser.add_argument(
        "--peer",
        choices=("torch",),
        help="train the same with PyTorch too, each seed after cnnrs's, and compare",
    )
    parser.add_argument(
        "--peer-seeds",
        type=_at_least(1),
        metavar="N",
        help="how many of the seeds the peer trains with, as it is slower (default: all)",
    )
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)

    of_bench_alone = ("repeats", "plot")
    for name in of_bench_alone:  # where they stand behind `accuracy`; `check` refuses them
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def check(options: argparse.Namespace) -> None:
        for name in of_bench_alone:
            if getattr(options, name) is not None:
                parser.error(f"expected no --{name}, which belongs to `bench` alone")
        if options.peer_seeds is not None and options.peer is None:
            parser.error("--peer-seeds needs --peer")

    parser.set_defaults(run=_bench_accuracy, check=check)


def _bench_accuracy(options: argparse.Namespace) -> None:
    from cnnrs.bench_accuracy import run

    run(
        recipe=options.recipe,
        data=options.data,
        seeds=options.seeds,
        epochs=options.epochs,
        hold_out=options.hold_out,
        json_file=options.json,
        peer=options.peer,
        peer_seeds=options.peer_seeds,
    )


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="print versions, the instruction set in use and the number of threads",
        description="Print versions, the instruction set in use and the number of threads.",
    )
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> None:
    from cnnrs._config import show_config

    show_config()


def _recipe_option(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--recipe",
        default=default,
        metavar="NAME",
        help="tutorial, keras, fast, best, or a Python file with a function `recipe`, of which "
        "those are examples (default: %(default)s)",
    )


def _data_option(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--data",
        default=default,
        metavar="NAME",
        help="mnist, mnist-sample, fashion_mnist, or a folder of IDX files. mnist is looked for "
        "in $CNNRS_DATA/mnist and the cache, then downloaded; without a network the sample that "
        "comes with cnnrs takes its place (default: %(default)s)",
    )


def _scaling_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scale",
        type=_number,
        metavar="FACTOR",
        help="what pixels from 0 to 255 are multiplied by, such as 1/255, if the model was trained "
        "on such and has no Rescaling layer (default: 1)",
    )
    command.add_argument(
        "--offset", type=_number, metavar="SUMMAND", help="what is added then (default: 0)"
    )


def _scaling(options: argparse.Namespace) -> tuple[float, float] | None:
    """What `_scaling_options` were given, if anything."""
    if options.scale is None and options.offset is None:
        return None
    return (1.0 if options.scale is None else options.scale), options.offset or 0.0


def _at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    to = "" if most is None else f" to {most}"

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected an integer from {least}{to}, got {text!r}")
        return value

    return integer


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def _picture(text: str) -> Path:
    if not text.endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in .png, .svg or .pdf, got {text!r}"
        )
    return Path(text)


def _number(text: str) -> float:
    """A decimal number or a fraction."""
    from fractions import Fraction

    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"expected a number such as 0.5 or 1/255, got {text!r}"
        ) from None


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
