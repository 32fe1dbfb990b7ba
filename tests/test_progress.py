"""The progress bar: on terminals of all kinds, in notebooks, and where there is none."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnrs._progress import Report
from model_under_test import compiled, data

on_posix = pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals")

PROGRAM = """
import sys
import numpy as np
import cnnrs._progress
from cnnrs import Conv2D, Dense, Flatten, Sequential
from cnnrs.callbacks import LambdaCallback

cnnrs._progress.BAR_SECONDS = cnnrs._progress.MOVE_SECONDS = 0
cnnrs._fit.CALL_SECONDS = 0  # a call, and a state of the bar, for each step
model = Sequential([Conv2D(8, 3, input_shape=(28, 28, 1)), Flatten(), Dense(10, "softmax")])
model.compile("sgd", "sparse_categorical_crossentropy")
x, y = np.zeros((4000, 28, 28, 1), np.uint8), np.zeros(4000, int)
"""

FIT = "model.fit(x, y, epochs=2)"


def environment(**changes: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TERM"}
    return inherited | {"PYTHONWARNINGS": "always", **changes}


def on_a_terminal(
    program: str, *, columns: int = 100, rows: int = 24, term: str | None = "xterm", **streams: Any
) -> tuple[int, str]:
    """Run a program with a pseudo-terminal; its exit code, and what the terminal received."""
    import fcntl
    import pty
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    ends = {"stdin": child, "stdout": child, "stderr": child, **streams}
    changes = {} if term is None else {"TERM": term}
    command = [sys.executable, "-c", PROGRAM + textwrap.dedent(program)]
    with subprocess.Popen(command, env=environment(**changes), **ends) as running:
        os.close(child)
        received = b""
        while chunk := _read(parent):
            received += chunk
        os.close(parent)
    return running.returncode, received.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # on Linux, when the last program has closed it
        return b""


def screen(text: str, columns: int) -> list[str]:
    """What such a text leaves on a terminal, line by line; a line too long is an error."""
    lines, line, at = [], "", 0
    for char in text:
        if char == "\n":
            lines.append(line.rstrip())
            line = ""
        elif char == "\r":
            at = 0
        else:
            assert char.isprintable()
            line = line[:at].ljust(at) + char + line[at + 1 :]
            at += 1
            assert at <= columns
    return [*lines, *([line.rstrip()] if line.strip() else [])]


def bars(text: str) -> list[str]:
    """The states of the bar that a terminal was sent."""
    return [part.strip() for part in re.split(r"[\r\n]+", text) if re.match(r" *\d+%", part)]


LINE = r"125/125 - \d+\.\ds - \d+(us|ms|s)/step - loss: \d\S+ - accuracy: \d\S+"
BAR = r"\d+%\|.+\| [\d:?]+ left, loss: \d\S+, accuracy: \d\S+, \S+ images/s"


@on_posix
def test_a_bar_moves_and_leaves_plain_lines() -> None:
    code, received = on_a_terminal(FIT)
    assert code == 0
    lines = screen(received, 100)
    assert len(lines) == 4
    for epoch, (heading, line) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        assert heading == f"Epoch {epoch + 1}/2"
        assert re.fullmatch(LINE, line)
    shown = bars(received)
    assert sum(bool(re.fullmatch(BAR, state)) for state in shown) == 2 * 125
    assert sum(state.startswith("100%|█") for state in shown) == 2
    assert max(map(len, shown)) in (98, 99)  # a leading blank is not counted


@on_posix
@pytest.mark.parametrize("columns", [10, 20, 40, 60, 200])
def test_a_bar_fits_its_terminal(columns: int) -> None:
    code, received = on_a_terminal(FIT, columns=columns)
    assert code == 0
    shown = bars(received)
    assert shown
    assert max(map(len, shown)) < columns
    lines = [part for part in re.split(r"[\r\n]+", received) if part.strip()]
    assert len([line for line in lines if line.strip() not in shown]) == 4


@on_posix
@pytest.mark.parametrize(
    ("columns", "figures"),
    [(46, ""), (61, r"loss: \d\S+, "), (79, r"loss: \d\S+, accuracy: \d\S+, ")],
)
def test_a_narrow_terminal_shows_whole_figures_or_none(columns: int, figures: str) -> None:
    _, received = on_a_terminal(FIT, columns=columns)
    shown = [state for state in bars(received) if "? images/s" not in state]  # before the first
    assert shown
    for state in shown:
        assert re.fullmatch(rf"\d+%\|.{{10,}}\| [\d:?]+ left, {figures}\S+ images/s", state)


@on_posix
@pytest.mark.parametrize(
    "settings",
    [{"columns": 9}, {"columns": 3}, {"columns": 1}, {"term": None}, {"term": "dumb"}],
)
def test_no_bar_where_there_is_no_room_or_no_way_back(settings: dict[str, Any]) -> None:
    code, received = on_a_terminal(FIT, **settings)
    assert code == 0
    assert bars(received) == []
    assert len(screen(received, 1000)) == 4


@on_posix
def test_a_terminal_of_unknown_size_gets_a_bar() -> None:
    code, received = on_a_terminal(FIT, columns=0, rows=0)
    assert code == 0
    assert {len(state) for state in bars(received)} <= set(range(60, 80))
    assert bars(received)
    assert len(screen(received, 80)) == 4


@on_posix
@pytest.mark.parametrize("verbose", [0, 2])
def test_no_bar_that_is_not_wished(verbose: int) -> None:
    code, received = on_a_terminal(f"model.fit(x, y, epochs=2, verbose={verbose})")
    assert code == 0
    lines = screen(received, 1000)
    assert bars(received) == []
    assert len(lines) == verbose
    assert all(re.fullmatch(rf"Epoch \d/2 - {LINE}", line) for line in lines)


@on_posix
def test_lines_go_into_a_pipe_and_the_bar_to_the_terminal(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("wb") as file:
        code, received = on_a_terminal(FIT, stdout=file)
    assert code == 0
    assert bars(received)
    assert screen(received, 100) == []
    text = (tmp_path / "lines").read_text()
    assert re.fullmatch(rf"Epoch 1/2\n{LINE}\nEpoch 2/2\n{LINE}\n", text)


@on_posix
def test_a_bar_makes_way_for_what_is_printed() -> None:
    code, received = on_a_terminal("""
        from cnnrs.optimizers import SGD
        model.compile(SGD(1e30), "sparse_categorical_crossentropy")
        x += 1
        say = lambda epoch, logs: print("said", epoch)
        model.fit(x, y, epochs=2, callbacks=LambdaCallback(say, say), validation_data=(x, y))
    """)
    assert code == 0
    lines = screen(received, 1000)
    warned = [line for line in lines if "RuntimeWarning: the loss is not finite" in line]
    assert len(warned) == 1
    assert re.match(r"\S+:\d+: RuntimeWarning", warned[0])
    assert [line for line in lines if line.startswith("said")] == [
        *("said 0", "said 0", "said 1", "said 1")
    ]
    assert sum("%" in line for line in lines) == 0


@on_posix
def test_a_bar_makes_way_for_the_lines_of_an_evaluation() -> None:
    code, received = on_a_terminal("""
        judge = lambda batch, logs: batch == 60 and model.evaluate(x[:32], y[:32])
        model.fit(x, y, callbacks=LambdaCallback(on_train_batch_end=judge))
    """)
    assert code == 0
    heading, judged, line = screen(received, 100)
    assert heading == "Epoch 1/1"
    assert re.fullmatch(LINE.replace("125/125", "1/1"), judged)
    assert re.fullmatch(LINE, line)


@on_posix
@pytest.mark.parametrize("close", ["sys.stderr.close()", "sys.stderr = None"])
def test_a_standard_error_that_is_gone_is_no_trouble(close: str) -> None:
    code, received = on_a_terminal(f"{close}\n{FIT}")
    assert code == 0
    assert len(screen(received, 100)) == 4


@on_posix
def test_a_terminal_that_goes_away_does_not_end_the_training(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with path.open("wb") as file:
        code, _ = on_a_terminal(
            """
            import os
            def hang_up(batch, logs):
                if batch == 60:
                    full = os.open("/dev/full", os.O_WRONLY)
                    os.dup2(full, 2)  # where writing fails
                    sys.stderr.isatty = lambda: True
            model.fit(x, y, epochs=2, callbacks=LambdaCallback(on_train_batch_end=hang_up))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            """,
            stdout=file,
        )
    assert code == 0
    assert len(path.read_text().splitlines()) == 4


@on_posix
def test_ctrl_c_takes_the_bar_away() -> None:
    code, received = on_a_terminal("""
        import os
        def press(batch, logs):
            if batch == 60:
                os.kill(os.getpid(), 2)
        try:
            model.fit(x, y, callbacks=LambdaCallback(on_train_batch_end=press))
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert code in (0, -signal.SIGINT)
    assert bars(received)
    assert screen(received, 100) == ["Epoch 1/1", "interrupted"]


def test_no_standard_streams_are_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        model = compiled()
        model.fit(x, y)
        model.evaluate(x, y)


def test_a_short_epoch_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("cnnrs._progress.BAR_SECONDS", 1e6)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    x, y = data()
    compiled().fit(x, y, epochs=3)
    assert terminal.getvalue() == ""


def test_a_bar_may_go_while_another_thread_clears_it() -> None:
    class Gone(Report):
        """A report whose bar is gone once it has been looked at."""

        @property
        def _bar(self) -> Any:
            bar, self.__dict__["left"] = self.__dict__.get("left"), None
            return bar

        @_bar.setter
        def _bar(self, bar: Any) -> None:
            self.__dict__["left"] = bar

    cleared: list[bool] = []
    report = Gone(1, epochs=1, steps=1, images=1)
    report._bar = SimpleNamespace(clear=lambda: cleared.append(True))
    report.clear()
    report.clear()
    assert cleared == [True]


# Notebooks

NOTEBOOK = """
import types
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")  # what tqdm goes by
import IPython, tqdm.notebook as notebook
shown = []
class Seen(notebook.tqdm_notebook):
    def display(self, *arguments, **settings):
        super().display(*arguments, **settings)
        left, bar, right = self.container.children
        shown.append((bar.value, bar.max, bar.bar_style, right.value))
notebook.tqdm = notebook.tqdm_notebook = Seen
notebook.display = lambda container: None
"""


def in_a_notebook(program: str) -> list[str]:
    pytest.importorskip("ipywidgets")
    command = [sys.executable, "-c", PROGRAM + NOTEBOOK + textwrap.dedent(program)]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def test_a_notebook_gets_its_own_bar() -> None:
    *lines, kinds, last, states = in_a_notebook(f"""
        {FIT}
        print({{style for *_, style, _ in shown}})
        print(shown[-2])
        print(len(shown))
    """)
    assert re.fullmatch(rf"Epoch 1/2\n{LINE}\nEpoch 2/2\n{LINE}", "\n".join(lines))
    assert kinds == "{''}"
    assert last.startswith("(4000.0, 4000.0, ")
    assert "left, loss: " in last.replace("\\u2007", " ")
    assert int(states) >= 2 * 125


def test_a_notebook_takes_an_early_end_for_no_error() -> None:
    *_, kinds = in_a_notebook("""
        def stop(batch, logs):
            model.stop_training = batch == 60
        model.fit(x, y, callbacks=LambdaCallback(on_train_batch_end=stop))
        print({style for *_, style, _ in shown})
    """)
    assert kinds == "{''}"


def test_a_notebook_without_widgets_gets_lines() -> None:
    program = f"""
        sys.modules["ipywidgets"] = None
        sys.modules["ipykernel.zmqshell"] = None
        {FIT}
    """
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM + textwrap.dedent(program)]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (len(ran.stdout.splitlines()), ran.stderr) == (4, "")
