"""Signals: the first one interrupts, later ones break no unwinding, and the handlers are as before."""

from __future__ import annotations

import signal
import threading

import pytest

from conche.errors import Interrupted
from conche.process import signals_deferred, signals_raise
from tests.test_process import SIGNALS


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_raises_and_the_handlers_are_as_before(number: signal.Signals, status: int) -> None:
    before = [signal.getsignal(known) for known, _ in SIGNALS]

    with pytest.raises(Interrupted) as caught, signals_raise():
        signal.raise_signal(number)

    assert (caught.value.received, caught.value.status) == (number, status)
    assert [signal.getsignal(known) for known, _ in SIGNALS] == before


def test_a_second_signal_does_not_break_the_unwinding() -> None:
    unwound: list[str] = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            with signals_deferred():
                signal.raise_signal(signal.SIGHUP)
            unwound.append("to the end")

    with pytest.raises(Interrupted) as caught, signals_raise():
        work()

    assert (caught.value.status, unwound) == (143, ["to the end"])


def test_a_deferred_signal_is_delivered_at_the_end_of_the_outermost_stretch() -> None:
    done: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with signals_deferred():
            with signals_deferred():
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("not reached")

    with pytest.raises(Interrupted) as caught, signals_raise():
        work()

    assert (caught.value.received, done) == (signal.SIGHUP, ["inner", "outer"])
    assert signal.getsignal(signal.SIGINT) == before


def test_a_deferred_signal_goes_to_whoever_handled_it_before() -> None:
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        signal.raise_signal(signal.SIGINT)


def test_without_a_signal_nothing_is_raised() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with signals_raise(), signals_deferred():
        inside = signal.getsignal(signal.SIGTERM)

    assert inside != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_fault_inside_a_deferred_stretch_is_not_hidden_by_a_signal() -> None:
    def fail() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), signals_deferred():
        fail()


@pytest.mark.parametrize("guard", [signals_raise, signals_deferred])
def test_other_threads_leave_the_signals_alone(guard: object) -> None:
    assert callable(guard)
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look() -> None:
        with guard():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert seen == [before]
