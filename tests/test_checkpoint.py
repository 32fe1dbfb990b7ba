"""Saving while training: when, which, and under which name."""

import copy
from pathlib import Path
from typing import Any

import pytest

import cnnrs
from cnnrs.callbacks import Callback, ModelCheckpoint
from cnnrs.optimizers import SGD
from model_under_test import SPARSE, assert_same_weights, compiled, data, differ, small_model


class Figures(Callback):
    """Puts given values into the logs, one an epoch."""

    def __init__(self, *values: float, name: str = "val_loss") -> None:
        self.values, self.name = values, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.name] = self.values[epoch]


class Weights(Callback):
    """Keeps copies of the model as it was after each epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.after: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        twin = small_model()
        twin.set_weights(self.model.get_weights())
        self.after.append(twin)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_epoch_is_saved_under_its_name(tmp_path: Path) -> None:
    x, y = data()
    model, weights = compiled(), Weights()
    keep = ModelCheckpoint(tmp_path / "new" / "{epoch:02d}-{val_loss:.2f}.safetensors")
    history = model.fit(
        x, y, epochs=3, validation_data=(x, y), verbose=0, callbacks=[keep, weights]
    )
    expected = [
        f"{epoch:02d}-{loss:.2f}.safetensors"
        for epoch, loss in enumerate(history.history["val_loss"], 1)
    ]
    assert names(tmp_path / "new") == expected
    for name, after in zip(expected, weights.after, strict=True):
        twin = cnnrs.load_model(tmp_path / "new" / name)
        assert_same_weights(twin, after)
    twin.fit(x, y, verbose=0)
    model.fit(x, y, verbose=0)
    assert_same_weights(twin, model)


def test_weights_alone(tmp_path: Path) -> None:
    x, y = data()
    path = tmp_path / "weights.safetensors"
    model = compiled()
    model.compile(SGD(lambda step: 0.1), SPARSE)
    model.fit(x, y, verbose=0, callbacks=ModelCheckpoint(path, save_weights_only=True))
    twin = small_model(seed=1)
    twin.load_weights(path)
    assert_same_weights(twin, model)
    with pytest.raises(ValueError, match="weights only"):
        cnnrs.load_model(path)


NAN = float("nan")


@pytest.mark.parametrize(
    ("settings", "values", "best"),
    [
        ({}, (3.0, 2.0, 2.0, 2.5), 1),
        ({"mode": "max"}, (3.0, 2.0, 4.0, 2.5), 2),
        ({}, (NAN, 2.0, NAN, 2.5), 1),
        ({"monitor": "val_accuracy"}, (0.1, 0.5, 0.2, 0.5), 1),
        ({"monitor": "mine", "mode": "min"}, (3.0, 2.0, 2.0, 2.5), 1),
        ({"initial_value_threshold": 2.2}, (3.0, 2.5, 2.1, 2.0), 3),
        ({"initial_value_threshold": 1.0}, (3.0, 2.5, 2.1, 2.0), None),
    ],
)
def test_the_best_is_kept(
    tmp_path: Path, settings: dict[str, Any], values: tuple[float, ...], best: int | None
) -> None:
    path, weights = tmp_path / "best.safetensors", Weights()
    figures = Figures(*values, name=settings.get("monitor", "val_loss"))
    keep = ModelCheckpoint(path, save_best_only=True, **settings)
    compiled().fit(*data(), epochs=4, verbose=0, callbacks=[figures, keep, weights])
    assert path.exists() == (best is not None)
    if best is not None:
        assert_same_weights(cnnrs.load_model(path), weights.after[best])
        assert differ(weights.after[best], weights.after[best - 1])
        assert keep.best == values[best]


def test_a_figure_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True)
    with pytest.warns(RuntimeWarning, match="got 'val_loss'; there are: loss, accuracy") as caught:
        compiled().fit(*data(), verbose=0, callbacks=keep)
    assert caught[0].filename == __file__
    assert names(tmp_path) == []


def test_batches_are_counted_over_epochs(tmp_path: Path) -> None:
    x, y = data(20)
    keep = ModelCheckpoint(tmp_path / "{epoch}-{batch}.safetensors", save_freq=3)
    compiled().fit(x, y, batch_size=5, epochs=3, verbose=0, callbacks=copy.copy(keep))
    assert names(tmp_path) == [f"{at}.safetensors" for at in ("1-3", "2-2", "3-1", "3-4")]


def test_hooks_that_are_called_every_so_many_steps_count_them(tmp_path: Path) -> None:
    model = compiled()
    model.compile("sgd", SPARSE, steps_per_execution=2)
    keep = ModelCheckpoint(tmp_path / "{epoch}-{batch}.safetensors", save_freq=3)
    model.fit(*data(20), batch_size=5, epochs=2, verbose=0, callbacks=keep)
    assert names(tmp_path) == ["1-4.safetensors", "2-4.safetensors"]


def test_only_saving_between_epochs_wants_hooks_of_batches(tmp_path: Path) -> None:
    from model_under_test import Spy

    def calls(**settings: Any) -> list[int]:
        model = compiled()
        spy = Spy(model)
        keep = ModelCheckpoint(tmp_path / "a.safetensors", save_weights_only=True, **settings)
        model.fit(*data(60), batch_size=1, verbose=0, callbacks=keep)
        return spy.calls

    assert len(calls()) < 60
    assert calls(save_freq=30) == [1] * 60


def test_it_says_what_it_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "best.safetensors"
    figures = Figures(3.0, 2.0, 2.5)
    keep = ModelCheckpoint(path, verbose=1, save_best_only=True)
    compiled().fit(*data(), epochs=3, verbose=0, callbacks=[figures, keep])
    each = ModelCheckpoint(path, verbose=1)
    compiled().fit(*data(), verbose=0, callbacks=[each])
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch 1: val_loss improved to 3.00000, saving to {path}",
        f"Epoch 2: val_loss improved from 3.00000 to 2.00000, saving to {path}",
        "Epoch 3: val_loss did not improve from 2.00000",
        f"Epoch 1: saving to {path}",
    ]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"filepath": "a.keras"}, ValueError, r"filepath: .* \.safetensors, got 'a.keras'"),
        ({"filepath": "{epoch.x}.safetensors"}, ValueError, "got '{epoch.x}' in '{epoch.x}.safet"),
        (
            {"filepath": "{loss[0]}.safetensors"},
            ValueError,
            r"names of figures .*got '{loss\[0\]}'",
        ),
        ({"filepath": "{}.safetensors"}, ValueError, "names of figures in braces, got '{}'"),
        ({"filepath": "{0}.safetensors"}, ValueError, "names of figures in braces, got '{0}'"),
        ({"filepath": "{a.safetensors"}, ValueError, "in braces, got '{a.safetensors' .expected"),
        ({"save_freq": "batch"}, ValueError, "save_freq: expected 'epoch' or an integer"),
        ({"save_freq": 0}, ValueError, "save_freq: expected at least 1, got 0"),
        ({"save_freq": 1.5}, TypeError, "save_freq: expected an integer, got 1.5"),
        ({"save_best_only": True, "mode": "most"}, ValueError, "mode: expected"),
        ({"initial_value_threshold": "a"}, TypeError, "initial_value_threshold: expected"),
    ],
)
def test_arguments_are_checked(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ModelCheckpoint(**{"filepath": "a.safetensors", **settings})


@pytest.mark.parametrize("name", ["{odd}", "{loss:d}", "{loss:{epoch.x}}"])
def test_a_name_that_cannot_be_made_is_refused(name: str, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="filepath: expected figures among loss, accuracy, epoch"):
        compiled().fit(*data(), verbose=0, callbacks=keep)
    assert names(tmp_path) == []


def test_a_model_that_cannot_be_saved_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    model = compiled()
    model.compile(SGD(lambda step: 0.1), SPARSE)
    before = model.get_weights()
    with pytest.raises(ValueError, match="save: expected a learning rate that is a number"):
        model.fit(*data(), verbose=0, callbacks=ModelCheckpoint(tmp_path / "a.safetensors"))
    assert (model.get_weights()[0] == before[0]).all()
