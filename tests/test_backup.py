"""Backups of a training: cut off anywhere and begun again, it ends as if nothing had been."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
import kill_training
from cnnrs import BatchNormalization, Dense, Dropout, Flatten, Input, Sequential
from cnnrs.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from cnnrs.optimizers import SGD, Adam, AdamW
from cnnrs.utils import set_random_seed
from model_under_test import SPARSE, assert_same, assert_same_weights, compiled, data

posix_only = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")

BACKUP = "backup.safetensors"


class Cut(Callback):
    """Ends the training by an exception, in the middle of an epoch or when it is over."""

    def __init__(self, epoch: int, hook: str = "batch") -> None:
        self.at, self.hook, self.epoch = epoch, hook, -1
        if hook == "batch":
            self.on_train_batch_end = self.batch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def batch(self, batch: int, logs: Any = None) -> None:
        if self.epoch == self.at and batch == 1:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.epoch == self.at and self.hook == "epoch":
            raise KeyboardInterrupt

    def on_train_end(self, logs: Any = None) -> None:
        if self.hook == "end":
            raise KeyboardInterrupt


class Halve(Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate *= 0.5


def network(optimizer: Any = "adam", seed: int = 0, dtype: str = "float32") -> Sequential:
    set_random_seed(seed)
    layers = [BatchNormalization(), Dropout(0.4), Flatten(), Dense(3, "softmax")]
    model = Sequential([Input((7, 6, 2)), *layers], dtype=dtype)
    model.compile(optimizer, SPARSE)
    return model


def fit(model: Sequential, *callbacks: Callback, epochs: int = 6, **settings: Any) -> History:
    x, y = data(22)
    settings = {"validation_split": 0.1, "batch_size": 4, "verbose": 0, **settings}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **settings)


@pytest.mark.parametrize(
    "optimizer",
    [SGD, lambda: SGD(0.1, momentum=0.9, nesterov=True), Adam, lambda: AdamW(0.01)],
    ids=["SGD", "momentum", "Adam", "AdamW"],
)
@pytest.mark.parametrize("hook", ["batch", "epoch", "end"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_training_that_is_cut_off_ends_as_if_it_had_not_been(
    tmp_path: Path, optimizer: Any, hook: str, dtype: str
) -> None:
    expected = network(optimizer(), dtype=dtype)
    figures = fit(expected, Halve())
    epochs: list[int] = []
    for seed, cut_at in enumerate((0, 2, 3, 5)):
        # A new process would begin with another model; its own random numbers must not matter.
        model = network(optimizer(), seed=0 if not epochs else seed, dtype=dtype)
        with pytest.raises(KeyboardInterrupt):
            fit(model, Halve(), BackupAndRestore(tmp_path), Cut(cut_at, hook))
        epochs.append(len(model.history.epoch))
        if hook == "end":
            break
        if cut_at == 0:
            assert not (tmp_path / BACKUP).exists()
            epochs.clear()
    model = network(optimizer(), seed=9, dtype=dtype)
    history = fit(model, Halve(), BackupAndRestore(tmp_path))
    assert_same_weights(model, expected)
    assert history.history == figures.history
    assert history.epoch == list(range(6))
    assert model.optimizer.learning_rate == expected.optimizer.learning_rate
    assert model._rng.bit_generator.state == expected._rng.bit_generator.state


def test_a_training_goes_on_in_the_same_process_too(tmp_path: Path) -> None:
    expected, model = network(), network()
    fit(expected)
    backup = BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, backup, Cut(3))
    fit(model, backup)
    assert_same_weights(model, expected)


def test_more_epochs_may_be_asked_for_and_other_steps_a_call(tmp_path: Path) -> None:
    expected, model = network(), network()
    fit(expected, epochs=9)
    with pytest.raises(KeyboardInterrupt):
        fit(model, BackupAndRestore(tmp_path), Cut(2), epochs=3)
    model.compile("adam", SPARSE, steps_per_execution=3)
    fit(model, BackupAndRestore(tmp_path), epochs=9)
    assert_same_weights(model, expected)


def test_the_backup_is_deleted_at_the_end_or_stays(tmp_path: Path) -> None:
    fit(network(), BackupAndRestore(tmp_path / "a" / "b"))
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "a" / "note").write_text("mine")
    fit(network(), BackupAndRestore(tmp_path / "a"))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["note"]

    model, again = network(), network(seed=5)
    fit(model, BackupAndRestore(tmp_path, delete_checkpoint=False))
    assert (tmp_path / BACKUP).exists()
    history = fit(again, BackupAndRestore(tmp_path, delete_checkpoint=False))
    assert_same_weights(again, model)
    assert len(history.history["loss"]) == 6
    assert_same_weights(cnnrs.load_model(tmp_path / BACKUP), model)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".backup.0123456789ab.safetensors").write_bytes(b"half")
    (tmp_path / ".other.0123.safetensors").write_bytes(b"another's")
    fit(network(), BackupAndRestore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".other.0123.safetensors"]


def test_it_says_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(network(), BackupAndRestore(tmp_path), Cut(2))
    assert capsys.readouterr().out == ""
    fit(network(), BackupAndRestore(tmp_path), verbose=2)
    first, heading, *_ = capsys.readouterr().out.splitlines()
    assert first == f"Going on after epoch 2, which {tmp_path / BACKUP} has"
    assert heading.startswith("Epoch 3/6")


# Other callbacks


class Patient(Callback):
    """Keeps the best weights, and stops when they are two epochs old; then takes them back."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.best: float | None = None
        self.weights: list[Any] = []
        self.wait = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.wait += 1
        if self.best is None or logs["val_loss"] < self.best:
            self.best, self.wait, self.weights = logs["val_loss"], 0, self.model.get_weights()
        if self.wait == 2:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights(self.weights)

    def get_state(self) -> dict[str, Any]:
        return {
            "best": np.float64(self.best or 0),
            "wait": self.wait,
            "more": {"weights": tuple(self.weights), "none": None, "yes": True, "nan": np.nan},
        }

    def set_state(self, state: Any) -> None:
        assert state["more"].keys() == {"weights", "none", "yes", "nan"}
        assert np.isnan(state["more"]["nan"])
        self.best, self.wait, self.weights = state["best"], state["wait"], state["more"]["weights"]


@pytest.mark.parametrize("hook", ["batch", "end"])
def test_callbacks_go_on_from_their_states(tmp_path: Path, hook: str) -> None:
    expected = network(Adam(0.3))
    figures = fit(expected, Patient(), epochs=50)
    ended = len(figures.epoch)
    assert 3 < ended < 50

    def callbacks(*more: Callback) -> list[Callback]:
        return [Patient(), Patient(), *more, BackupAndRestore(tmp_path)]

    with pytest.raises(KeyboardInterrupt):
        fit(network(Adam(0.3)), *callbacks(Cut(ended - 1, hook)), epochs=50)
    model = network(Adam(0.3), seed=3)
    history = fit(model, *callbacks(), epochs=50)
    assert_same_weights(model, expected)
    assert history.history == figures.history
    assert model.stop_training


def test_callbacks_of_this_package_go_on_from_theirs(tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        stop = EarlyStopping(patience=4, restore_best_weights=True)
        return [stop, ReduceLROnPlateau(patience=1, factor=0.7)]

    expected = network(Adam(0.3))
    figures = fit(expected, *callbacks(), epochs=60)
    ended = len(figures.epoch)
    assert 4 < ended < 60
    for epoch in (2, ended // 2, ended - 1):
        cut = Cut(epoch, "end" if epoch == ended - 1 else "batch")
        with pytest.raises(KeyboardInterrupt):
            fit(network(Adam(0.3)), *callbacks(), cut, BackupAndRestore(tmp_path), epochs=60)
    model = network(Adam(0.3), seed=4)
    history = fit(model, *callbacks(), BackupAndRestore(tmp_path), epochs=60)
    assert_same_weights(model, expected)
    assert history.history == figures.history


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("hook", ["batch", "epoch"])
def test_a_log_has_each_epoch_once(append: bool, hook: str, tmp_path: Path) -> None:
    fit(network(), CSVLogger(tmp_path / "whole.csv"))
    log = CSVLogger(tmp_path / "log.csv", append=append)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), log, Cut(3, hook), BackupAndRestore(tmp_path / "backup"))
    log = CSVLogger(tmp_path / "log.csv", append=append)
    fit(network(), log, BackupAndRestore(tmp_path / "backup"))
    assert (tmp_path / "log.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_the_best_of_a_checkpoint_is_kept(tmp_path: Path) -> None:
    def best(model: Sequential, name: str, *more: Callback) -> bytes:
        keep = ModelCheckpoint(tmp_path / name, monitor="val_loss", save_best_only=True)
        fit(model, keep, *more, epochs=8)
        return (tmp_path / name).read_bytes()

    expected = best(network(Adam(0.3)), "expected.safetensors")
    backup = BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        best(network(Adam(0.3)), "got.safetensors", backup, Cut(6))
    model = network(Adam(0.1), seed=4)
    assert best(model, "got.safetensors", backup) == expected


def test_batches_between_checkpoints_are_counted_on(tmp_path: Path) -> None:
    def saved(folder: str, *more: Callback) -> set[str]:
        path = tmp_path / folder / "{epoch}-{batch}.safetensors"
        fit(network(), ModelCheckpoint(path, save_freq=3), *more, epochs=3)
        return {path.name for path in (tmp_path / folder).iterdir()}

    expected = saved("expected")
    backup = BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        saved("cut off", backup, Cut(1))
    assert saved("got", backup) == {name for name in expected if not name.startswith("1-")}


def test_a_learning_rate_of_the_users_own_is_taken_from_the_program(tmp_path: Path) -> None:
    def rate(step: int) -> float:
        return 0.1 / (1 + step)

    expected = network(SGD(rate, momentum=0.9))
    fit(expected)
    with pytest.raises(KeyboardInterrupt):
        fit(network(SGD(rate, momentum=0.9)), BackupAndRestore(tmp_path), Cut(4))
    model = network(SGD(rate, momentum=0.9), seed=1)
    fit(model, BackupAndRestore(tmp_path))
    assert_same_weights(model, expected)


def test_a_state_that_cannot_be_saved_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(Callback):
        def get_state(self) -> dict[str, Any]:
            return {"odd": [object()]}

    with pytest.raises(TypeError, match=r"Odd\.get_state: expected numbers, .* got <object"):
        fit(network(), Odd(), BackupAndRestore(tmp_path))
    assert list(tmp_path.iterdir()) == []


# What is refused


@pytest.fixture
def backed_up(tmp_path: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        fit(network(), BackupAndRestore(tmp_path), Cut(2))
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8}, "batch_size 8, found 4"),
        ({"validation_split": 0.5}, "images 11, found 19"),
        ({"shuffle": False}, "shuffle False, found True"),
        ({"validation_split": 0.0}, "images 22, found 19"),
    ],
)
def test_a_backup_of_another_training_is_refused(
    backed_up: Path, settings: dict[str, Any], message: str
) -> None:
    model = network()
    before = model.get_weights()
    path = re.escape(str(backed_up / BACKUP))
    with pytest.raises(ValueError, match=f"^{path}: expected a backup of this .*{message}"):
        fit(model, BackupAndRestore(backed_up), **settings)
    assert_same(model.get_weights(), before)
    fit(network(), BackupAndRestore(backed_up))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: compiled(optimizer="adam"), r"layers\[0\] class_name 'Conv2D', found 'BatchNorm"),
        (lambda: network("sgd"), "optimizer class_name 'SGD', found 'Adam'|config keys"),
        (lambda: network(Adam(beta_1=0.5)), r"beta_1 0\.5, found 0\.9"),
        (lambda: network(dtype="float64"), "dtype 'float64', found 'float32'"),
    ],
)
def test_a_backup_of_another_model_is_refused(backed_up: Path, model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"expected a backup of this training, .*({message})"):
        fit(model(), BackupAndRestore(backed_up))


@pytest.mark.parametrize("first", [False, True])
def test_a_refused_training_leaves_the_log_of_the_other(tmp_path: Path, first: bool) -> None:
    def callbacks() -> list[Callback]:
        log, backup = CSVLogger(tmp_path / "log.csv"), BackupAndRestore(tmp_path / "backup")
        return [backup, log] if first else [log, backup]

    with pytest.raises(KeyboardInterrupt):
        fit(network(), *callbacks(), Cut(2))
    rows = (tmp_path / "log.csv").read_bytes()
    assert rows
    with pytest.raises(ValueError, match="expected a backup of this training"):
        fit(network(), *callbacks(), batch_size=8)
    assert (tmp_path / "log.csv").read_bytes() == rows


def test_a_damaged_backup_and_other_files_are_refused(backed_up: Path) -> None:
    path = backed_up / BACKUP
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*damaged"):
        fit(network(), BackupAndRestore(backed_up))
    network().save(path)
    with pytest.raises(ValueError, match="expected a backup of a training, found a model"):
        fit(network(), BackupAndRestore(backed_up))


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o555)
    # The superuser writes to any folder but those that Linux makes up.
    yield Path("/proc") if os.access(tmp_path, os.W_OK) else tmp_path
    tmp_path.chmod(0o755)


@posix_only
def test_a_folder_that_cannot_be_written_to_is_told_before_training(unwritable: Path) -> None:
    model, untrained = network(), network()
    with pytest.raises(OSError, match=re.escape(str(unwritable / BACKUP))):
        fit(model, BackupAndRestore(unwritable))
    assert_same_weights(model, untrained)


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_freq: expected 'epoch', got 100"):
        BackupAndRestore(tmp_path, save_freq=100)
    with pytest.raises(ValueError, match="backup_dir: expected a path, got ''"):
        BackupAndRestore("")
    (tmp_path / "file").write_text("")
    before = network()
    with pytest.raises(OSError, match="exists"):
        fit(before, BackupAndRestore(tmp_path / "file"))


# Killed processes


@posix_only
def test_a_training_survives_any_kill(tmp_path: Path) -> None:
    report = kill_training.kill(6, seed=1, folder=tmp_path)
    assert report.faults == []


@posix_only
@pytest.mark.parametrize(
    "moment",
    [
        "before fsync",
        "within fsync",
        "after fsync",
        "before replace",
        "after replace",
    ],
)
def test_a_training_survives_a_kill_within_a_backup(
    moment: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    training = kill_training.Training(tmp_path)
    assert not training.run(dies=moment)
    assert training.begun == [[0, 1, 2]]
    assert training.run()
    # Only the rename makes a backup of it.
    assert training.begun[1][0] == (3 if moment == "after replace" else 2)
    assert training.faults(undisturbed) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return kill_training.undisturbed(tmp_path_factory.mktemp("training") / "undisturbed")[0]
