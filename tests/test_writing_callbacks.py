"""Callbacks that write files or call functions, and the end of trainings that go astray."""

import csv
import io
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnrs import Dense, Input, Sequential
from cnnrs.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    TensorBoard,
    TerminateOnNaN,
    _tensorboard,
)
from cnnrs.optimizers import SGD
from model_under_test import Spy, assert_same_weights, compiled, data

# CSV


def rows(path: Path, separator: str = ",") -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=separator))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_has_the_history(tmp_path: Path, separator: str) -> None:
    x, y = data()
    path = tmp_path / "log.csv"
    path.write_text("something old")
    settings: dict[str, Any] = {"epochs": 3, "verbose": 0, "validation_split": 0.5}
    history = compiled().fit(x, y, callbacks=CSVLogger(path, separator), **settings).history
    head, *lines = rows(path, separator)
    assert head == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    for epoch, line in enumerate(lines):
        assert line == [str(epoch), *(repr(history[name][epoch]) for name in head[1:])]
    assert len(lines) == 3


def test_a_row_is_there_when_its_epoch_is_over(tmp_path: Path) -> None:
    x, y = data()
    path, seen = tmp_path / "log.csv", []

    def look(epoch: int, logs: Any) -> None:
        seen.append(len(rows(path)))
        if epoch == 1:
            raise ZeroDivisionError

    log = CSVLogger(path)
    with pytest.raises(ZeroDivisionError):
        compiled().fit(x, y, epochs=3, verbose=0, callbacks=[log, LambdaCallback(None, look)])
    assert seen == [2, 3]
    assert len(rows(path)) == 3


def test_a_table_goes_on(tmp_path: Path) -> None:
    x, y = data()
    path, model = tmp_path / "log.csv", compiled()
    log = CSVLogger(path, append=True)
    for first in (0, 2):  # the file is not there, then it is
        model.fit(x, y, epochs=first + 2, initial_epoch=first, verbose=0, callbacks=log)
    assert [row[0] for row in rows(path)] == ["epoch", "0", "1", "2", "3"]
    model.fit(x, y, verbose=0, callbacks=CSVLogger(path))
    assert [row[0] for row in rows(path)] == ["epoch", "0"]


def test_a_table_goes_on_in_its_own_columns(tmp_path: Path) -> None:
    x, y = data()
    path = tmp_path / "log.csv"
    path.write_text("epoch,val_loss,loss\n0,1.0,1.0\n1,0.")  # and was cut short
    with pytest.warns(RuntimeWarning, match=r"log\.csv: no column for accuracy") as caught:
        history = compiled().fit(
            x, y, epochs=3, initial_epoch=1, verbose=0, callbacks=CSVLogger(path, append=True)
        )
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    losses = [repr(loss) for loss in history.history["loss"]]
    assert rows(path)[2:] == [["1", "0."], ["1", "NA", losses[0]], ["2", "NA", losses[1]]]


def test_figures_that_come_and_go(tmp_path: Path) -> None:
    class Sometimes(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["first" if epoch == 0 else "later"] = float(epoch)

    x, y = data()
    path = tmp_path / "log.csv"
    with pytest.warns(RuntimeWarning, match="no column for later") as caught:
        compiled().fit(x, y, epochs=3, verbose=0, callbacks=[Sometimes(), CSVLogger(path)])
    assert len(caught) == 1
    assert [row[2] for row in rows(path)] == ["first", "0.0", "NA", "NA"]


@given(st.binary(min_size=1, max_size=40))
def test_a_file_that_is_no_table_is_left_alone(tmp_path_factory: Any, content: bytes) -> None:
    if content.startswith((b"epoch", b'"epoch')):
        return
    path = tmp_path_factory.mktemp("folder") / "thesis.doc"
    path.write_bytes(content)
    x, y = data()
    with pytest.raises(ValueError, match=r"thesis\.doc: expected a log that begins with the colu"):
        compiled().fit(x, y, verbose=0, callbacks=CSVLogger(path, append=True))
    assert path.read_bytes() == content


def test_a_table_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    x, y = data()
    model, untrained = compiled(), compiled()
    for path in (tmp_path, tmp_path / "none" / "log.csv"):
        with pytest.raises(OSError, match=str(path)):
            model.fit(x, y, verbose=0, callbacks=CSVLogger(str(path)))
    assert_same_weights(model, untrained)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), TypeError, "filename: expected a path, got 1"),
        (("",), ValueError, "filename: expected a path, got ''"),
        (("a", 1), TypeError, "separator: expected one character, got 1"),
        (("a", ""), ValueError, "separator: expected one character other than"),
        (("a", ", "), ValueError, "separator: expected one character other than"),
        (("a", "\n"), ValueError, "separator: expected one character other than"),
    ],
)
def test_nonsense_for_a_table_is_refused(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CSVLogger(*arguments)


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads in a folder."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.util import tensor_util

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = float(tensor_util.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_tensorboard_reads_the_history(tmp_path: Path) -> None:
    x, y = data()
    model, board = compiled(), TensorBoard(tmp_path / "logs", write_steps_per_second=True)
    for first in (0, 2):
        history = model.fit(
            x,
            y,
            batch_size=5,
            epochs=first + 2,
            initial_epoch=first,
            verbose=0,
            validation_split=0.5,
            callbacks=[board, LearningRateScheduler(lambda epoch: 2.0**-epoch)],
        ).history
        train, validation = (scalars(tmp_path / "logs" / it) for it in ("train", "validation"))
        assert train.keys() == {
            *("epoch_loss", "epoch_accuracy", "epoch_learning_rate", "epoch_steps_per_second")
        }
        assert validation.keys() == {"epoch_loss", "epoch_accuracy"}
        steps = range(first + 2)
        assert train["epoch_learning_rate"] == [(step, 2.0**-step) for step in steps]
        for name in ("loss", "accuracy"):
            for there, here in [(train, name), (validation, f"val_{name}")]:
                got = there[f"epoch_{name}"]
                assert [step for step, _ in got] == list(steps)
                assert [value for _, value in got[-2:]] == pytest.approx(history[here])
    assert len(train["epoch_steps_per_second"]) == 4


@pytest.mark.parametrize(("stop_after", "rates"), [(None, [10.0, 10.0]), (3, [1.5])])
def test_steps_per_second_are_of_the_steps_taken(
    stop_after: int | None, rates: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(batch: int, logs: Any) -> None:
        model.stop_training = batch + 1 == stop_after

    x, y = data(40)
    model, board = compiled(), TensorBoard(tmp_path, write_steps_per_second=True)
    seconds = iter(range(0, 100, 2))
    clock = SimpleNamespace(perf_counter=lambda: next(seconds), time_ns=time.time_ns)
    monkeypatch.setattr(_tensorboard, "time", clock)
    halt = LambdaCallback(on_train_batch_end=stop)
    model.fit(x, y, 2, epochs=2, verbose=0, callbacks=[board, halt])
    found = scalars(tmp_path / "train")["epoch_steps_per_second"]
    assert [value for _, value in found] == rates


def test_event_files_say_their_version_and_go_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_file_loader

    names = []
    # Each has one digit more than the one before, but for the zeros in front.
    for second in (6, 999_999_999, 1_000_000_000, 1_000_000_003):
        monkeypatch.setattr("time.time_ns", lambda second=second: second * 10**9)
        compiled().fit(*data(), verbose=0, callbacks=TensorBoard(tmp_path))
        (path,) = {*(tmp_path / "train").iterdir()} - {tmp_path / "train" / it for it in names}
        first, *others = event_file_loader.EventFileLoader(str(path)).Load()
        assert (first.file_version, first.wall_time) == ("brain.Event:2", second)
        assert [event.WhichOneof("what") for event in others] == ["summary"]
        names.append(path.name)
    assert names == sorted(names)
    assert all(name.startswith("events.out.tfevents.") for name in names)


def test_a_missing_tensorboard_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnnrs\[tensorboard\]'"):
        TensorBoard()


def test_writing_for_tensorboard_loads_no_framework(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    program = f"""if True:
        import sys
        from cnnrs import Dense, Input, Sequential
        from cnnrs.callbacks import TensorBoard
        model = Sequential([Input((1,)), Dense(1)])
        model.compile("sgd", "mse")
        model.fit([1.0], [1.0], verbose=0, callbacks=[TensorBoard({str(tmp_path)!r})])
        print({{"tensorflow", "torch", "jax"}} & set(sys.modules))
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    "settings",
    [
        {"log_dir": ""},
        {"histogram_freq": 1},
        {"write_graph": "no"},
        {"write_images": True},
        {"update_freq": "batch"},
        {"profile_batch": 2},
        {"embeddings_freq": 1},
        {"embeddings_metadata": "words"},
    ],
)
def test_what_is_not_written_is_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}: expected .*, got {settings[name]!r}"):
        TensorBoard(**settings)


# A full disk


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (CSVLogger, "log.csv"),
        (ModelCheckpoint, "model.safetensors"),
        (lambda path: BackupAndRestore(path.parent), "backup.safetensors"),
        (TensorBoard, "events.out.tfevents"),
    ],
    ids=["CSVLogger", "ModelCheckpoint", "BackupAndRestore", "TensorBoard"],
)
def test_a_file_that_has_no_room_is_named(make: Any, name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    if make is TensorBoard:
        pytest.importorskip("tensorboard")
    x, y = data()
    model, callback = compiled(), make(tmp_path / name)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            model.fit(x, y, verbose=0, callbacks=callback)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert name in str(error.value.filename)


def test_a_backup_folder_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    def remove(epoch: int, logs: Any) -> None:
        if epoch == 1:
            shutil.rmtree(folder)

    x, y = data()
    folder = tmp_path / "backup"
    callbacks = [BackupAndRestore(folder, delete_checkpoint=False), LambdaCallback(remove)]
    compiled().fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    history = compiled().fit(x, y, epochs=3, verbose=0, callbacks=BackupAndRestore(folder))
    assert history.epoch == [0, 1, 2]
    assert not folder.exists()


@pytest.mark.parametrize("stdout", [None, "closed"])
def test_what_files_are_written_is_told_where_there_is_an_output(
    stdout: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data()
    backup = BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    keep = ModelCheckpoint(tmp_path / "{epoch}.safetensors", verbose=1)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", stdout and closed)
    for epochs in (1, 2):
        compiled().fit(x, y, epochs=epochs, callbacks=[backup, keep])
    assert (tmp_path / "2.safetensors").exists()


# Functions


def test_functions_are_called_instead_of_methods() -> None:
    calls: list[Any] = []

    def note(hook: str) -> Any:
        def called(*arguments: Any, **named: Any) -> None:
            *numbers, logs = [*arguments, *named.values()]
            calls.append((hook, *numbers, *named))
            assert isinstance(logs, dict)

        return called

    hooks = [
        *("on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end"),
        *("on_train_batch_begin", "on_train_batch_end"),
    ]
    others = ["on_test_begin", "on_test_end", "on_predict_begin", "on_predict_end"]
    called = LambdaCallback(*map(note, hooks), **{hook: note(hook) for hook in others})
    x, y = data(10)
    model = compiled()
    settings: dict[str, Any] = {"verbose": 0, "callbacks": called}
    model.fit(x, y, 5, validation_data=(x, y), **settings)
    assert calls == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        ("on_train_batch_begin", 0, "logs"),
        ("on_train_batch_end", 0, "logs"),
        ("on_train_batch_begin", 1, "logs"),
        ("on_train_batch_end", 1, "logs"),
        ("on_test_begin",),
        ("on_test_end",),
        ("on_epoch_end", 0),
        ("on_train_end",),
    ]
    calls.clear()
    model.evaluate(x, y, **settings)
    out = model.predict(x, **settings)
    assert calls == [(hook,) for hook in others]
    np.testing.assert_array_equal(out, model.predict(x))


def test_hooks_of_a_validation_get_its_figures() -> None:
    x, y = data()
    seen: list[Any] = []
    called = LambdaCallback(on_test_begin=seen.append, on_test_end=seen.append)
    model = compiled()
    history = model.fit(x, y, verbose=0, validation_split=0.5, callbacks=called).history
    assert seen == [{}, {"loss": history["val_loss"][0], "accuracy": history["val_accuracy"][0]}]
    seen.clear()
    figures = model.evaluate(x, y, 6, verbose=0, callbacks=[called], return_dict=True)
    assert seen == [{}, figures]
    assert called.params == {"verbose": 0, "epochs": 1, "steps": 4}


def test_functions_cost_nothing_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 1e6)
    x, y = data(60)
    model = compiled()
    spy = Spy(model)
    quiet = [LambdaCallback(lambda epoch, logs: None), TerminateOnNaN()]
    model.fit(x, y, batch_size=1, verbose=0, callbacks=quiet)
    assert len(spy.calls) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_epoch_stop": print}, "LambdaCallback: expected 'on_train_begin'.*'on_epoch_stop'"),
        ({"on_test_batch_end": print}, "LambdaCallback: expected .*, got 'on_test_batch_end'"),
        ({"on_epoch_end": 1}, "on_epoch_end: expected a function, got 1"),
    ],
)
def test_what_would_never_be_called_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LambdaCallback(**settings)


# NaN


def diverging() -> Sequential:
    """Its loss is infinite, and then NaN, after some steps with `x = y = 1`."""
    model = Sequential([Input((1,)), Dense(1, kernel_initializer="zeros")])
    model.compile(SGD(1e6), "mse")
    return model


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_a_training_that_goes_astray_ends(
    seconds: float, batches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", seconds)
    ones = np.ones((1000, 1))
    ended: list[Any] = []
    watch = LambdaCallback(on_train_end=ended.append)
    called: list[Callback] = [TerminateOnNaN(), watch]
    if batches:
        called.append(LambdaCallback(on_train_batch_end=lambda batch, logs: None))
    model = diverging()
    spy = Spy(model)
    with pytest.warns(RuntimeWarning, match=r"the loss is not finite at epoch 1, step \d:"[:-1]):
        history = model.fit(ones, ones, 1, epochs=5, verbose=0, callbacks=called)
    assert history.epoch == [0]
    assert not math.isfinite(history.history["loss"][0])
    assert len(ended) == 1
    assert sum(spy.calls) < 100


def test_a_training_that_goes_astray_can_raise() -> None:
    ones = np.ones((1000, 1))
    model = diverging()
    with pytest.raises(RuntimeError, match="loss: expected a finite number, got inf at epoch 1, s"):
        model.fit(ones, ones, 1, verbose=0, callbacks=TerminateOnNaN(raise_error=True))


def test_a_training_that_does_not_goes_on() -> None:
    x, y = data()
    model, expected = compiled(), compiled()
    model.fit(x, y, epochs=3, verbose=0, callbacks=[TerminateOnNaN()])
    expected.fit(x, y, epochs=3, verbose=0)
    assert_same_weights(model, expected)
