"""What the tests of several threads share."""

import threading
from collections.abc import Callable
from itertools import starmap
from typing import Any

from cnnrs import Sequential


def in_threads(*tasks: Callable[[], object], times: int = 1) -> None:
    """Run each task that often in a thread of its own, side by side; raise the first exception."""
    start, errors = threading.Barrier(len(tasks)), []

    def body(task: Callable[[], object]) -> None:
        start.wait()
        try:
            for _ in range(times):
                task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class AtWork:
    """Stands in for the compiled network of a model while its next long call is watched.

    After `sys.setswitchinterval(1000)` no thread takes the interpreter's lock from one that does
    not give it. Then a thread that waits for `begun` goes on in the midst of that call.
    """

    def __init__(self, model: Sequential) -> None:
        model._ready_network()
        self._model, self._network = model, model._network
        self.begun = threading.Event()
        self.returned: list[Any] = []
        """What came back from the call, if it came to its end."""

    def __enter__(self) -> "AtWork":
        self._model._network = self
        return self

    def __exit__(self, *_: object) -> None:
        self._model._network = self._network

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._network, name)
        if name not in ("train", "evaluate", "predict"):
            return method

        def call(*arguments: Any) -> Any:
            self.begun.set()
            # No handler of signals runs between a return and its note.
            self.returned.extend(starmap(method, [arguments]))
            return self.returned[-1]

        return call
