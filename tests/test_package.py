"""The package as it is installed: what importing it costs, what it ships, what it documents."""

import ast
import doctest
import importlib
import importlib.metadata
import importlib.resources
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import cnnrs
from cnnrs import (
    _core,
    callbacks,
    datasets,
    export,
    images,
    initializers,
    interop,
    layers,
    losses,
    models,
    optimizers,
    plotting,
    saving,
    utils,
)
from cnnrs.datasets import fashion_mnist, mnist
from cnnrs.optimizers import schedules
from cnnrs.recipes.tutorial import tutorial_network
from processes_under_test import python

HEAVY = {
    "PIL",
    "matplotlib",
    "onnx",
    "pooch",
    "requests",
    "safetensors",
    "sklearn",
    "tqdm",
    "urllib3",
}
COMMAND_ONLY = {"argparse", "csv", "json", "logging", "subprocess"}

MODULES_WITH_ALL = (
    cnnrs,
    callbacks,
    datasets,
    export,
    fashion_mnist,
    images,
    initializers,
    interop,
    layers,
    losses,
    mnist,
    models,
    optimizers,
    plotting,
    saving,
    schedules,
    utils,
)

MODEL_FACE = (
    callbacks,
    export,
    initializers,
    interop,
    layers,
    losses,
    models,
    optimizers,
    saving,
    schedules,
    utils,
)

PUBLIC_MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(cnnrs.__path__, "cnnrs.")
    if not any(part.startswith("_") for part in found.name.split("."))
)


# Imports


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("cnnrs", HEAVY | COMMAND_ONLY | {"cnnrs.training_run", "cnnrs.bench", "numpy.random"}),
        ("cnnrs.datasets", HEAVY | COMMAND_ONLY),
        *((module.__name__, HEAVY | COMMAND_ONLY | {"numpy.random"}) for module in MODEL_FACE),
        ("cnnrs.cli", HEAVY | {"cnnrs.training_run", "cnnrs.bench"}),
        ("cnnrs.training_run", HEAVY),
        ("cnnrs.bench", HEAVY),
        ("cnnrs.images", HEAVY | COMMAND_ONLY),
        ("cnnrs.plotting", HEAVY - {"matplotlib", "PIL"} | {"matplotlib.pyplot"}),
    ],
)
def test_import_loads_only_what_it_needs(module: str, unwanted: set[str]) -> None:
    # What NumPy loads is no business of ours.
    program = (
        f"import sys, numpy; before = set(sys.modules); import {module}; "
        f"print(*sorted({unwanted!r} & (set(sys.modules) - before)))"
    )
    ran = python(program)
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ("", "", 0)


def test_everything_in_all_is_there_once() -> None:
    for module in MODULES_WITH_ALL:
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)
    namespace: dict[str, object] = {}
    exec("from cnnrs import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(cnnrs.__all__)


def test_instruction_set_comes_from_the_environment() -> None:
    show = "import cnnrs; cnnrs.show_config()"
    for level in _core.simd_levels():
        assert f"instruction set  {level} (available: " in python(show, CNNRS_SIMD=level).stdout
    assert f"instruction set  {_core.simd_levels()[-1]} " in python(show, CNNRS_SIMD="").stdout
    refused = python(show, CNNRS_SIMD="sse9")
    assert refused.returncode != 0
    assert "CNNRS_SIMD: expected one of this machine's scalar, " in refused.stderr
    assert 'got "sse9"' in refused.stderr


# What is shipped


@pytest.mark.parametrize(
    "path",
    [
        "py.typed",
        "_core.pyi",
        "datasets/sample/README.md",
        "datasets/sample/t10k-labels-idx1-ubyte.gz",
    ],
)
def test_file_is_shipped(path: str) -> None:
    assert importlib.resources.files("cnnrs").joinpath(path).is_file()


def test_stub_names_what_the_compiled_module_has() -> None:
    stub = ast.parse(importlib.resources.files("cnnrs").joinpath("_core.pyi").read_text("utf-8"))
    (listed,) = (
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    compiled = {name for name in dir(_core) if not name.startswith("_")} | {"__version__"}
    assert set(listed) == compiled
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            public = {name for name in dir(getattr(_core, node.name)) if not name.startswith("_")}
            assert methods - {"__new__"} == public


def test_version_and_command_are_the_distributions() -> None:
    assert cnnrs.__version__ == importlib.metadata.version("cnnrs")
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="cnnrs")
    assert command.value == "cnnrs.cli:main"
    assert callable(command.load())


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cnnrs.show_config() is None
    shown = capsys.readouterr().out
    assert f"{cnnrs.__version__} ({_core.BUILD_PROFILE} build)" in shown
    assert _core.BUILD_PROFILE in ("release", "debug")
    assert f"instruction set  {_core.simd_level()} " in shown
    for level in _core.simd_levels():
        assert level in shown


# Documentation


def documented(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The module, its public functions and classes, and their public methods and properties."""
    yield module.__name__, module
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            yield f"{module.__name__}.{name}", value
            for member, part in vars(value).items():
                method = inspect.isfunction(part) or isinstance(part, property | classmethod)
                if method and not member.startswith("_"):
                    yield f"{module.__name__}.{name}.{member}", part


@pytest.mark.parametrize("name", ["cnnrs", *PUBLIC_MODULES])
def test_docstrings_begin_with_a_sentence(name: str) -> None:
    undocumented = [
        thing
        for thing, value in documented(importlib.import_module(name))
        if not (value.__doc__ or "").partition("\n")[0].endswith(".")
    ]
    assert undocumented == []


def exports() -> Iterator[tuple[str, object]]:
    """The functions and classes that users import, and the methods that users call."""
    for module in MODULES_WITH_ALL:
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
                continue
            yield f"{module.__name__}.{name}", value
            # What callbacks have is called by `fit`, and shown by the classes' own examples.
            if inspect.isclass(value) and not issubclass(value, callbacks.Callback):
                for method, part in inspect.getmembers(value):
                    own = inspect.isfunction(part) or inspect.ismethod(part)
                    if own and not method.startswith("_"):
                        yield f"{module.__name__}.{name}.{method}", part
    yield "tutorial_network", tutorial_network


def test_exports_have_examples() -> None:
    found = dict(exports())
    assert len(found) > 200
    for module in MODEL_FACE:
        assert any(name.startswith(f"{module.__name__}.") for name in found)
    assert [
        name
        for name, value in found.items()
        if not doctest.DocTestParser().get_examples(value.__doc__ or "")
    ] == []
