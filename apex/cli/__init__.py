"""The command line: the only room that prints. Data on stdout, everything else on stderr."""

from __future__ import annotations

from collections.abc import Sequence

from apex.cli.stopping import STOPS, Stopped, watch_signals

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        watch_signals()
        from apex.cli.app import run  # the rest is imported while signals are watched

        return run(arguments)
    except Stopped as stopped:
        return _say(stopped)
    except STOPS as stop:
        return _say(Stopped(stop))


def _say(stopped: Stopped) -> int:
    from apex.cli.output import complain

    complain(stopped.message)
    return stopped.status
