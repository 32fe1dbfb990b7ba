"""What the tests of several threads share."""

import threading
from collections.abc import Callable


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
