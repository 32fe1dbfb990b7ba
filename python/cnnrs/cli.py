"""The command `cnnrs`: results on standard output, progress and complaints on standard error."""

import argparse
import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from cnnrs import __version__

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses; 130 is a shell's own for a command that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, by default the process's own, and return its exit status.

    Example:
        >>> main(["train", "--data", "mnist-sample", "--limit", "1000", "--epochs", "1"])
        ... # doctest: +ELLIPSIS
        Data: the bundled sample of MNIST...
        0
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe, too, each line at once; letters that its encoding lacks, as escapes.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            run(options)
        return 0
    except KeyboardInterrupt:
        print("cnnrs: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED  # Whoever read standard output has gone.
    except (OSError, ValueError, MemoryError, ModuleNotFoundError, Warning) as error:
        print(f"cnnrs: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    finally:
        try:
            print(end="", flush=True)
        except OSError:
            sys.stdout = None  # Or Python would flush, and complain, once more.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnnrs", description="Small convolutional networks on the CPU."
    )
    parser.add_argument("--version", action="version", version=f"cnnrs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train the tutorial's network",
        description="Train the tutorial's network, Conv3x3(8) - MaxPool2 - Softmax(10), with SGD, "
        "one image a step, and test it after every epoch.",
    )
    train.add_argument(
        "--data",
        default="mnist",
        metavar="NAME",
        help="mnist, mnist-sample, fashion_mnist, or a folder of IDX files. mnist is looked for "
        "in $CNNRS_DATA/mnist and the cache, then downloaded; without a network the sample that "
        "comes with cnnrs takes its place (default: %(default)s)",
    )
    train.add_argument(
        "--limit", type=_at_least(1), metavar="N", help="train on the first N images only"
    )
    train.add_argument(
        "--epochs",
        type=_at_least(1),
        default=3,
        metavar="N",
        help="how many times to train on every image (default: %(default)s)",
    )
    train.add_argument(
        "--lr",
        type=_rate,
        default=0.005,
        metavar="RATE",
        help="learning rate (default: %(default)s)",
    )
    train.add_argument(
        "--seed",
        type=_at_least(0, most=2**32 - 1),
        default=0,
        metavar="N",
        help="of the initial weights and the order of the images (default: %(default)s)",
    )
    train.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write weights.safetensors, history.csv and, if matplotlib is installed, "
        "history.png",
    )
    train.set_defaults(run=_train)

    bench = commands.add_parser(
        "bench",
        help="time the tutorial's program against NumPy",
        description="Time the tutorial's layers and its whole training step: NumPy with the "
        "tutorial's loops, vectorised NumPy, and cnnrs, in turn in one process.",
    )
    bench.add_argument(
        "--repeats",
        type=_at_least(1),
        default=9,
        metavar="N",
        help="rounds, of which the median is reported (default: %(default)s)",
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    bench.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw a bar chart (.png, .svg or .pdf)"
    )
    bench.set_defaults(run=_bench)
    return parser


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

    tqdm.write(f"cnnrs: warning: {message}", file=sys.stderr)  # so that a progress bar makes way


def _train(options: argparse.Namespace) -> None:
    from cnnrs.training_run import run

    run(
        data=options.data,
        limit=options.limit,
        epochs=options.epochs,
        learn_rate=options.lr,
        seed=options.seed,
        out=options.out,
    )


def _bench(options: argparse.Namespace) -> None:
    from cnnrs.bench import run

    run(repeats=options.repeats, json_file=options.json, plot_file=options.plot)


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


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
