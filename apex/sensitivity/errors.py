"""How large the error of every tensor is as every type that it could become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from apex.errors import ImatrixError
from apex.files import ImportanceMatrix, SecondMoments
from apex.planning import (
    REFERENCE,
    ImportanceReference,
    MomentsReference,
    Plan,
    PlannedTensor,
    PlanOptions,
    plan,
)
from apex.quantizing import MeasuredError, RunSettings, measure_errors_of
from apex.quantizing.result import Progress
from apex.sensitivity.data import Group
from apex.sensitivity.sample import RowSample
from apex.sources import Source, Tensor
from apex.types import TYPES, fits

__all__ = ["CANDIDATES", "Candidate", "candidates_of", "measure_tables", "needs_importance"]

#: The types that a tensor may become, from the largest. Q4_1, Q5_1, Q4_0 and Q5_0 stand for rows
#: that only blocks of 32 fit; IQ1_S and IQ1_M are left out, since predictions do not hold there.
CANDIDATES = (
    *("Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS"),
    *("Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
)

# llama-quantize refuses to write these without importance.
_NEED_IMPORTANCE = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


def needs_importance(type_name: str) -> bool:
    """Whether a tensor without importance should not become this type."""
    return type_name in _NEED_IMPORTANCE or TYPES[type_name].needs_importance


@dataclass(frozen=True)
class Candidate:
    """A tensor that llama.cpp quantizes, and what it could become.

    Attributes:
        tensor: the tensor.
        types: some of ``CANDIDATES``, in their order.
        importance: with which it would be quantized, or None.
        moments: with which it would be compensated, or None.
    """

    tensor: Tensor
    types: tuple[str, ...]
    importance: ImportanceReference | None
    moments: MomentsReference | None = None


def candidates_of(
    source: Source,
    matrix: ImportanceMatrix | None,
    rounding: str = REFERENCE,
    second_moments: SecondMoments | None = None,
) -> dict[str, Candidate]:
    """By name, in the order of the source, the tensors whose types can be chosen.

    rounding, second_moments: as a plan is asked for them. A tensor whose rows fit none of
    ``CANDIDATES`` is left out. Raises as ``plan`` does.
    """
    made = plan(
        source,
        file_type="Q8_0",  # which every tensor that has second moments can be compensated to
        imatrix=matrix,
        rounding=rounding,
        second_moments=second_moments,
        allow_requantize=True,
    )
    order = {tensor.name: number for number, tensor in enumerate(source.tensors)}
    found = {
        tensor.name: Candidate(tensor.source, _types(tensor), tensor.importance, tensor.moments)
        for tensor in sorted(made.tensors, key=lambda tensor: order[tensor.name])
        if tensor.decided_by not in ("llama.cpp", "copy")
    }
    return {name: candidate for name, candidate in found.items() if candidate.types}


def _types(tensor: PlannedTensor) -> tuple[str, ...]:
    return tuple(
        name
        for name in CANDIDATES
        if fits(name, tensor.source.columns)
        and (tensor.importance is not None or not needs_importance(name))
    )


def measure_tables(
    source: Source,
    matrix: ImportanceMatrix | None,
    candidates: Mapping[str, Candidate],
    settings: RunSettings,
    rounding: str = REFERENCE,
    second_moments: SecondMoments | None = None,
    groups: Sequence[Group] = (),
    *,
    sample: int,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, dict[str, float]]:
    """By tensor and type, the relative squared error of the weights.

    Each column counts by its importance and each expert by how often it was chosen, so that the
    error is that of the outputs that the calibration saw, if the inputs' columns are independent.
    Of a compensated tensor it is the error of its outputs itself, by its second moments; what those
    say of how columns move together holds for the others of its group too.

    candidates: as ``candidates_of`` gives them with this rounding and these second moments.
    groups: that are measured together, of these candidates.
    sample: of each tensor, about as many weights as are looked at, in whole rows; 0 for all.
    """
    sampled = RowSample(source, sample) if sample else source
    types = [name for name in CANDIDATES if any(name in each.types for each in candidates.values())]
    given: PlanOptions = {
        "file_type": "Q8_0",
        "imatrix": matrix,
        "rounding": rounding,
        "second_moments": second_moments,
        "allow_requantize": True,
    }
    plans = []
    for name in types:
        options: PlanOptions = {**given, "types": _types_as(candidates, name)}
        plans.append(plan(sampled, **options))
    errors = measure_errors_of(plans, settings, source=sampled, progress=progress)
    counts, levels = _counts(plans, matrix), _levels(groups, errors[0])
    tables: dict[str, dict[str, float]] = {name: {} for name in candidates}
    for type_name, measured in zip(types, errors, strict=True):
        for name, candidate in candidates.items():
            if type_name in candidate.types:
                error = _relative(name, measured[name], counts.get(name))
                tables[name][type_name] = levels.get(name, 1.0) * error
    return tables


def _types_as(candidates: Mapping[str, Candidate], type_name: str) -> dict[str, str]:
    """By tensor, a type where it may be that, and the largest that it may be elsewhere."""
    return {
        name: type_name if type_name in candidate.types else candidate.types[0]
        for name, candidate in candidates.items()
    }


def _counts(plans: Sequence[Plan], matrix: ImportanceMatrix | None) -> dict[str, dict[int, float]]:
    """By tensor and expert, how many tokens chose it; only of tensors with several experts."""
    result: dict[str, dict[int, float]] = {}
    for tensor in plans[0].tensors if matrix is not None else ():
        if tensor.importance is None or tensor.source.experts == 1 or matrix is None:
            continue
        entry = matrix.entries[tensor.importance.entry]
        if len(entry.counts) == tensor.source.experts:
            result[tensor.name] = dict(enumerate(map(float, entry.counts)))
    return result


def _levels(groups: Sequence[Group], measured: Mapping[str, MeasuredError]) -> dict[str, float]:
    """By tensor without second moments in a group of others that have them: what its errors by
    importance are multiplied by.

    Columns that move together make outputs larger, but errors hardly, as long as these are not made
    to cancel; so errors by importance are too large a share of the outputs. Tensors of a group have
    similar inputs, so the geometric mean of what holds for the others is taken.
    """
    result: dict[str, float] = {}
    for group in groups:
        known, unknown = [], []
        for name in group.tensors:
            found = measured[name]
            if min(found.output_squares, found.independent_squares) > 0:
                known.append(found.independent_squares / found.output_squares)
            else:
                unknown.append(name)
        if known:
            result |= dict.fromkeys(unknown, geometric_mean(known))
    return result


def _relative(name: str, measured: MeasuredError, counts: Mapping[int, float] | None) -> float:
    if measured.output_squares > 0:
        # Importance alone would not see that errors cancel: it says 1.2 to 80 times the error on
        # other text, more for some types than for others. Second moments say .65 to 1.9 times that,
        # for all types alike, and the slope of a group makes up for it (bench/README.md).
        return measured.output_error / measured.output_squares
    error = squares = 0.0
    for expert, (part, of) in sorted(measured.by_expert.items()):
        share = 1.0 if counts is None else counts[expert]
        error += share * part
        squares += share * of
    if error == 0:
        return 0.0
    if squares <= 0:
        raise ImatrixError(
            f"The importance matrix gives no weight to {name}.",
            "make it from more text",
        )
    return error / squares
