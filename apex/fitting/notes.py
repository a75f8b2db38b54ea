"""What the user should know about the sensitivity that a fit stands on."""

from __future__ import annotations

from apex.files import ImportanceMatrix, SecondMoments
from apex.sensitivity import Sensitivity

__all__ = ["notes_of"]


def notes_of(
    sensitivity: Sensitivity,
    matrix: ImportanceMatrix | None,
    rounding: str,
    moments: SecondMoments | None,
    *,
    is_real: bool,
) -> tuple[str, ...]:
    """Where predictions are less certain, one sentence each.

    matrix, rounding, moments: what the file is made with.
    is_real: whether it is to be made, and not only its size to be known.
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
    if rounding != sensitivity.rounding:
        notes.append(
            f"The sensitivity was measured with {sensitivity.rounding} rounding, so that what is "
            f"predicted of {rounding} is less certain; apex measure --rounding {rounding} measures "
            "it."
        )
    elif moments is not None and moments.digest != sensitivity.second_moments:
        notes.append(
            "The sensitivity was measured with other second moments, so that what is predicted "
            f"with {moments.path} is less certain."
        )
    return tuple(notes)
