"""Where bytes go: files, or nowhere but into an error table."""

from __future__ import annotations

from apex.quantizing.sinks.errors import ErrorSink, MeasuredError, Outputs
from apex.quantizing.sinks.files import FileSink
from apex.quantizing.sinks.sink import Sink

__all__ = ["ErrorSink", "FileSink", "MeasuredError", "Outputs", "Sink"]
