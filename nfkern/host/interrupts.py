"""Signals held back until a piece of work is complete."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Signals:
    """Signals remembered until a piece of work is complete."""

    def __init__(self) -> None:
        """No signal received."""
        self.received = False
        self.number: int | None = None
        self._immediate = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; a second one, or one in an `immediate` part, interrupts at once."""
        if self._immediate or self.received:
            raise KeyboardInterrupt
        self.received, self.number = True, number

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Let a signal interrupt at once, in a part that can be lost."""
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False


@contextlib.contextmanager
def deferred_signals(*numbers: signal.Signals) -> Iterator[Signals]:
    """Remember signals (SIGINT and SIGTERM unless others are named) inside this context, instead of acting on them."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only, which has to handle them itself.
        yield signals
        return
    before = {number: signal.signal(number, signals.handle) for number in numbers or (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted(*numbers: signal.Signals) -> Iterator[None]:
    """Delay signals, as `deferred_signals` does, to the end of this context, and raise them then.

    For work that must not stop halfway: an extension module that is interrupted while it is imported fails with an
    ImportError, which hides the request to stop.
    """
    number = None
    try:
        with deferred_signals(*numbers) as signals:
            try:
                yield
            finally:
                number = signals.number
    finally:
        if number is not None:
            signal.raise_signal(number)
