"""A limit on the time of a call, for tests of wrong arguments."""

import contextlib
import signal

SECONDS = 5  # a call that takes longer hangs


@contextlib.contextmanager
def time_limit(seconds=SECONDS):
    """Raise AssertionError if the block takes longer."""
    def stop(*_):
        raise AssertionError("the call hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
