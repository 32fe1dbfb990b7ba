"""The examples of public names run where nothing but Python is known, as when they are pasted."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import cnnrs

OF_THE_COMMAND = {"cnnrs.__main__", "cnnrs.cli", "cnnrs.model_commands", "cnnrs.training_run"}
"""Modules that are not there to be imported by others."""


def public_modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(cnnrs.__path__, "cnnrs.")
    names = {name for _, name, _ in found if "._" not in name}
    return [cnnrs, *map(importlib.import_module, sorted(names - OF_THE_COMMAND))]


def public_names(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The module, what it exports and, of a class, the bases that its methods come from."""
    own = [
        name
        for name, it in vars(module).items()
        if getattr(it, "__module__", "") == module.__name__ and not name.startswith("_")
    ]
    yield module.__name__, module
    for name in getattr(module, "__all__", own):
        it = getattr(module, name)
        if getattr(it, "__module__", "").startswith("cnnrs"):
            yield f"{module.__name__}.{name}", it
        for base in inspect.getmro(it)[1:] if isinstance(it, type) else ():
            if base.__module__.startswith("cnnrs"):
                yield f"{base.__module__}.{base.__qualname__}", base


def examples() -> dict[str, doctest.DocTest]:
    """Each once, by the first name found: what is exported by that, a base by where it is."""
    found: dict[tuple[str | None, int | None], doctest.DocTest] = {}
    for module in public_modules():
        for name, it in public_names(module):
            finder = doctest.DocTestFinder(recurse=isinstance(it, type))
            for test in finder.find(it, name):
                if test.examples:
                    found.setdefault((test.filename, test.lineno), test)
    named = {test.name: test for test in found.values()}
    assert len(named) == len(found)
    return named


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_needs_nothing_around_it(name: str) -> None:
    test = EXAMPLES[name]
    test.globs = {"__name__": "__main__"}
    results = doctest.DocTestRunner().run(test)
    assert results.attempted
    assert not results.failed
