"""What the user should know about the sensitivity that a fit stands on."""

from __future__ import annotations

from apex.files import ImportanceMatrix
from apex.sensitivity import Sensitivity

__all__ = ["notes_of"]


def notes_of(
    sensitivity: Sensitivity, matrix: ImportanceMatrix | None, *, is_real: bool
) -> tuple[str, ...]:
    """Where predictions are less certain, one sentence each.

    is_real: whether the file is to be made, and not only its size to be known.
    """
    notes = []
    if not sensitivity.is_complete:
        notes.append(
            "The sensitivity is incomplete: what was not measured is taken from layers nearby; "
            "apex measure goes on where it stopped."
        )
    if matrix is None and sensitivity.imatrix and is_real:
        notes.append(
            "The sensitivity was measured with an importance matrix, and without one the file will "
            "be worse than predicted."
        )
    if matrix is not None and matrix.digest and matrix.digest != sensitivity.imatrix:
        other = "with another importance matrix" if sensitivity.imatrix else "without one"
        notes.append(
            f"The sensitivity was measured {other}, so that what is predicted with "
            f"{matrix.path} is less certain."
        )
    return tuple(notes)
