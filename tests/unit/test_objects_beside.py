"""What runs, or waits to be called, beside the cells, is named; what can be handed on is."""

from __future__ import annotations

import atexit
import functools
import io
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.objects import capture, restore

Namespace = dict[str, Any]


@pytest.fixture(autouse=True)
def own_signal() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


def told(namespace: Namespace) -> dict[str, str]:
    return {each.name: each.why for each in capture(namespace).lost}


def there_after(namespace: Namespace) -> Any:
    """How the signal is handled, once the namespace has come to an interpreter that handles it as usual."""
    file = io.BytesIO()
    capture(namespace).write(file)
    file.seek(0)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    restore(file, {})
    return signal.getsignal(signal.SIGUSR2)


def cells(*sources: str) -> Namespace:
    """A namespace in which cells have run, in the files that IPython's compiler would have named."""
    files = {f"<cell {number}>": number for number in range(1, len(sources) + 1)}
    shell = SimpleNamespace(compile=SimpleNamespace(_filename_map=files))
    namespace: Namespace = {"__name__": "__main__", "In": ["", *sources]}
    for file, number in files.items():
        exec(compile(sources[number - 1], file, "exec"), namespace)
    namespace["shell_of_test"] = shell
    return namespace


def test_a_thread_is_named_with_the_cell_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = cells("x = 1", "def tick(stop): stop.wait()")
    monkeypatch.setattr("sojourn.objects.history.shell_of", lambda home: home["shell_of_test"])
    monkeypatch.setattr("sojourn.objects.history.roots", lambda home: {})
    stop = threading.Event()
    thread = threading.Thread(target=namespace["tick"], args=(stop,), name="ticker")
    thread.start()
    try:
        assert told(namespace)['thread "ticker"'] == "a running thread, defined in cell 2"
    finally:
        stop.set()
        thread.join()


def test_a_cells_handler_of_a_signal_goes_along() -> None:
    namespace = cells("def handle(number, frame): pass")
    signal.signal(signal.SIGUSR2, namespace["handle"])
    assert "handler of SIGUSR2" not in told(namespace)
    assert there_after(namespace).__name__ == "handle"


def test_that_a_signal_is_ignored_goes_along() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    assert there_after({}) is signal.SIG_IGN


def test_a_handler_that_is_no_cells_is_named() -> None:
    signal.signal(signal.SIGUSR2, functools.partial(print, "signal"))
    assert "handler of SIGUSR2" in told({})
    assert there_after({}) is signal.SIG_DFL


def test_what_a_cell_registers_for_the_exit_is_named() -> None:
    namespace = cells("import atexit", "def bye(): pass\natexit.register(bye)")
    try:
        assert told(namespace)["exit handlers"].endswith("in cell 2")
    finally:
        atexit.unregister(namespace["bye"])
    assert "exit handlers" not in told(cells("x = 1"))
