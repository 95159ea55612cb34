"""Signals that ask a run to stop: which count, what a second one does, and environments that take them over."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from test_trainer import trainer

from tokendream import stop
from tokendream.stop import EXIT_CODES, SIGNALS, StopRequest


class Acted(Exception):
    """What the handler from before does."""


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    """A handler of our own for every signal, from before a run listens."""

    def act(number: int, frame: Any) -> None:
        raise Acted(signal.Signals(number).name)

    old = {number: signal.signal(number, act) for number in SIGNALS}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138),
                                            ("SIGUSR2", 140)])  # fmt: skip
def test_each_signal_is_a_reason_with_a_code_of_its_own(name, code):
    request = StopRequest()
    with request.listening():
        assert not request()
        send(signal.Signals[name])
        assert request()
    assert request.reason == name
    assert EXIT_CODES[name] == code
    with pytest.raises(Acted, match=name):
        send(signal.Signals[name])


def test_a_second_one_soon_after_changes_nothing_and_a_later_one_acts_as_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    request = StopRequest()
    with request.listening():
        send(signal.SIGTERM)
        for later in (0.017, 2.0, 4.9):
            now[0] = 100 + later
            send(signal.SIGTERM)
            assert request()
        send(signal.SIGHUP)  # another kind: its first
        assert request.reason == "SIGTERM"
        now[0] = 105.1
        with pytest.raises(Acted, match="SIGTERM"):
            send(signal.SIGTERM)


def test_a_second_ctrl_c_acts_at_once():
    request = StopRequest()
    with request.listening():
        send(signal.SIGINT)
        assert request()
        with pytest.raises(Acted, match="SIGINT"):
            send(signal.SIGINT)


def test_a_hangup_that_is_ignored_stays_ignored():
    """As nohup has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request = StopRequest()
    with request.listening():
        send(signal.SIGHUP)
        assert not request()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_an_environment_takes_for_itself_are_taken_back(number):
    request = StopRequest()
    with request.listening():
        signal.signal(number, signal.SIG_IGN)
        assert not request()  # asked between any two updates
        send(number)
        assert request.reason == number.name
    assert signal.getsignal(number) != signal.SIG_IGN


def test_a_process_that_goes_on_after_a_suspension_is_not_asked_to_stop():
    request = StopRequest()
    with request.listening():
        send(signal.SIGCONT)
        assert not request()
        send(signal.SIGCONT)
        assert not request()
    assert (request.reason, request.continued) == (None, 2)


def test_an_update_in_which_the_process_was_suspended_is_not_timed():
    def suspended(number: int) -> Any:
        if number == 1:
            time.sleep(0.5)
            send(signal.SIGCONT)
        return update(number)

    t, request = trainer(), StopRequest()
    update, t.phases["tokenizer"].update = t.phases["tokenizer"].update, suspended
    with request.listening():
        assert t.run_epoch(continued=lambda: request.continued)
    updates, seconds = t._timings["tokenizer"]
    assert updates == t.schedule[1].updates - 1 > 0
    assert 0 < seconds < 0.5
    assert t.seconds < 0.5 + sum(s for name, (_, s) in t._timings.items() if name != "tokenizer")
