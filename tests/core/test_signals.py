"""What is half-done is finished before Ctrl-C is heard."""

import signal
import threading

import pytest

from strokect.core.signals import uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block(number):
    came, finished = [], False
    before = signal.signal(number, lambda n, frame: came.append(n))
    try:
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert came == []
            finished = True
        assert finished
        assert came == [number], "once"
        signal.raise_signal(number)
        assert came == [number] * 2, "the handler is back"
    finally:
        signal.signal(number, before)


def test_an_error_passes_and_the_signal_is_heard():
    with pytest.raises(KeyboardInterrupt) as caught, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError
    assert isinstance(caught.value.__context__, ValueError)


def test_other_threads_have_no_handlers():
    done = []

    def work():
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
