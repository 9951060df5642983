"""Small computations of a CPU at once: each in a thread, because one alone keeps only one core busy."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Given = ParamSpec("Given")


def at_once(function: Callable[[Item], Result], items: Iterable[Item], count: int) -> list[Result]:
    """The results for all items, in their order; up to `count` are computed at a time. With 1 all are in this thread.

    What JAX is told by a context manager, such as `jax.default_device`, holds in one thread, and not in these; what it
    is told by `jax.config.update` does.

    Raises: what the function raises first. What has begun then is waited for, and nothing else is begun.

    >>> at_once(lambda number: number**2, [1, 2, 3], 2)
    [1, 4, 9]
    """
    if count < 2:
        return [function(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


def first_alone(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, whose first call ends before any other begins: it compiles what all of them run."""
    lock, ready = threading.Lock(), threading.Event()

    @functools.wraps(function)
    def call(*args: Given.args, **named: Given.kwargs) -> Result:
        if not ready.is_set():
            with lock:
                if not ready.is_set():
                    result = function(*args, **named)
                    ready.set()
                    return result
        return function(*args, **named)

    return call
