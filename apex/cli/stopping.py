"""What ends a command from outside, and what is said then. Light, for it is imported first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOPS", "Stopped", "Terminated", "ending", "watch_signals"]


class Terminated(BaseException):
    """SIGTERM or SIGHUP came; a BaseException, so that nothing takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# What ``except`` must name to notice that the user stops a command.
STOPS = (KeyboardInterrupt, Terminated)


class Stopped(BaseException):
    """A command was stopped, and says what it left behind.

    Attributes:
        message: what happened, and what is left.
        status: the exit status, 128 and the signal's number.
    """

    def __init__(self, stop: BaseException, leaves: str = "") -> None:
        number = stop.number if isinstance(stop, Terminated) else int(signal.SIGINT)
        word = "interrupted" if number == signal.SIGINT else "terminated"
        super().__init__(word)
        self.message = f"{word}; {leaves}" if leaves else word
        self.status = 128 + number


@contextmanager
def ending(leaves: str | Callable[[], str]) -> Iterator[None]:
    """Within this, a command that is stopped ends with these words on what it leaves behind."""
    try:
        yield
    except STOPS as stop:
        raise Stopped(stop, leaves if isinstance(leaves, str) else leaves()) from None


def watch_signals() -> None:
    """Let SIGTERM and SIGHUP unwind the stack, as SIGINT does; but not what nohup ignores."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
