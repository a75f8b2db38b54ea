"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex.files import OutputSet, output_error
from apex.planning import Plan, PlannedTensor
from apex.quantizing.jobs import Job
from apex.quantizing.slabs import Bytes

__all__ = ["FileSink"]


class FileSink:
    """The GGUF files of a plan; a ``Sink``."""

    def __init__(self, plan: Plan, headers: Sequence[bytes], paths: Sequence[Path]) -> None:
        """headers: of the plan's files. paths: their names."""
        self.plan = plan
        self.paths = tuple(paths)
        self._headers = headers
        self._output = OutputSet(paths)

    def open(self) -> None:
        """Make the partial files, of their full size, with their headers."""
        self._output.open()
        try:
            for file, planned, header in zip(
                self._output.files, self.plan.files, self._headers, strict=True
            ):
                file.write(header)
                file.extend(planned.bytes)
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise output_error(error, self.paths[0]) from None
            raise

    def write(self, tensor: PlannedTensor, job: Job, source: Bytes, result: Bytes) -> None:
        """Write the bytes to their place."""
        offset = tensor.offset + job.first_row * tensor.row_bytes
        try:
            self._output.files[tensor.file].write_at(offset, result.data)
        except OSError as error:
            raise output_error(error, self.paths[tensor.file]) from None

    def commit(self) -> None:
        """Sync the files and give them their names."""
        try:
            self._output.commit()
        except OSError as error:
            raise output_error(error, self.paths[0]) from None

    def abandon(self) -> None:
        """Remove the partial files."""
        self._output.abandon()
