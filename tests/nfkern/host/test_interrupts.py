"""Signals that wait until a piece of work is complete, and then come."""

import signal

import pytest

from nfkern.host.interrupts import deferred_signals, uninterrupted


def test_an_interrupt_comes_when_the_work_is_done():
    done = []

    def work():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("work")
        done.append("more")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["work"]


def test_an_interrupt_comes_although_the_work_fails():
    def work():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            raise ImportError("initialization failed")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_inside_deferred_signals_it_is_remembered_as_any_other():
    with deferred_signals() as signals:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert not signals.received
        assert signals.received
    with deferred_signals() as signals, pytest.raises(KeyboardInterrupt), signals.immediate(), uninterrupted():
        signal.raise_signal(signal.SIGTERM)


def test_without_a_signal_nothing_comes_and_handlers_are_as_before():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
