"""From a model and options to a Plan, or to one error that names everything that is wrong."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, cast

from apex import _core
from apex.planning import checks
from apex.planning.data import MatrixReference, Plan, PlannedFile
from apex.planning.decide import decide, planned
from apex.planning.layout import lay_out
from apex.planning.options import COPY, PlanOptions, files_read
from apex.planning.request import Request, read_options
from apex.planning.rounding import with_rounding
from apex.planning.tensor import PlannedTensor
from apex.planning.wishes import wishes_of
from apex.policy import Layout, Role
from apex.sources import Source, Tensor, is_projector, open_source
from apex.types import FILE_TYPES

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["plan"]


def plan(model: str | os.PathLike[str] | Source, **options: Unpack[PlanOptions]) -> Plan:
    """Decide the type of every tensor of a model, and check all that can be checked beforehand.

    Only headers are read, and the importance matrix; a model whose data is missing can be planned.
    The options are those of ``PlanOptions``. Raises UsageError, ModelFileError, ImatrixError or
    PlanError; each names everything of its kind that is wrong.
    """
    unknown = sorted(set(options) - set(PlanOptions.__annotations__))
    if unknown:
        raise TypeError(f"plan() got unknown options: {', '.join(unknown)}")
    source = open_source(model) if isinstance(model, (str, os.PathLike)) else model
    if is_projector(source.metadata) and not _forces_a_type(options):
        return _verbatim(source)
    return _plan(source, read_options(options))


def _plan(source: Source, request: Request) -> Plan:
    # Metadata is converted key by key, when it is asked for.
    metadata = cast("MutableMapping[str, Any]", source.metadata)
    layout = Layout.from_metadata(ChainMap[str, Any](request.overrides, metadata))
    checks.check_widths(request, layout)
    name = source.reference.name
    notes = _note_matrix(request)
    tensors = _ordered(source, request)
    wishes, note = wishes_of([tensor.name for tensor in tensors], request, layout)
    decisions = decide(source, tensors, wishes, request)
    checks.check_fits(tensors, decisions)
    checks.check_requantize(tensors, decisions, request, name)
    importance, importance_notes = checks.importance_of(tensors, decisions, request, layout, name)
    decided = [
        planned(tensor, wish, decision, importance.get(tensor.name), request.file_type)
        for tensor, wish, decision in zip(tensors, wishes, decisions, strict=True)
    ]
    decided, rounding_notes = with_rounding(decided, request)
    notes += [
        *([note] if note else []),
        *importance_notes,
        *rounding_notes,
        *checks.note_fallbacks(decided, request),
        *checks.note_unreached(decided),
        *checks.note_middle(decided, request, layout),
    ]
    files, placed = lay_out(source, decided, request, _file_type_id(source, request))
    return Plan(
        source.reference,
        request.recipe.name if request.recipe else request.options.get("title"),
        request.file_type,
        files,
        placed,
        MatrixReference(request.imatrix.path, request.imatrix.digest) if request.imatrix else None,
        tuple(notes),
        (*source.reference.files, *map(str, files_read(request.options))),
        is_sizes_only=request.options.get("sizes_only", False),
        second_moments=_moments_reference(request),
    )


def _moments_reference(request: Request) -> MatrixReference | None:
    moments = request.second_moments
    return None if moments is None else MatrixReference(moments.path, moments.digest)


def _note_matrix(request: Request) -> list[str]:
    recipe = request.recipe
    if request.imatrix is None or recipe is None or recipe.importance != "none":
        return []
    return [
        f"{recipe.name} is used with an importance matrix, which makes it what the tiers call "
        f"i-{recipe.name}."
    ]


def _ordered(source: Source, request: Request) -> list[Tensor]:
    """The tensors in the order in which llama.cpp writes them."""
    tensors = list(source.tensors)
    if request.options.get("keep_split"):
        return sorted(tensors, key=lambda tensor: tensor.shard)
    order = _core.output_order([tensor.name for tensor in tensors])
    return [tensors[index] for index in order]


def _file_type_id(source: Source, request: Request) -> int | None:
    """The value of general.file_type; that of the input where everything is copied."""
    if request.file_type != COPY:
        return FILE_TYPES[request.file_type].id
    value = source.metadata.get("general.file_type")
    return value if isinstance(value, int) else None


def _forces_a_type(options: PlanOptions) -> bool:
    forcing = ("file_type", "tensor_types", "tensor_type_file", "types")
    return any(options.get(option) for option in forcing)


def _verbatim(source: Source) -> Plan:
    reference = source.reference
    tensors = tuple(
        PlannedTensor(tensor, tensor.type, Role.OTHER, None, "", "copy", "copied", tensor.type)
        for tensor in source.tensors
    )
    note = (
        f"{reference.name} is a projector (mmproj): it is copied as it is, since tiers are made "
        "for language models and a projector is small; --type forces a type."
    )
    files = tuple(PlannedFile((), source.alignment, 0, "", size) for size in reference.file_bytes)
    return Plan(
        reference, None, COPY, files, tensors, None, (note,), reference.files, is_verbatim=True
    )
