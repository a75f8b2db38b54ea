"""llama.cpp's word on each tensor: whether it is quantized at all, and the type that is written."""

from __future__ import annotations

from collections.abc import Sequence

from apex import _core
from apex.errors import ModelFileError, UsageError
from apex.planning.importance import ImportanceReference
from apex.planning.options import COPY
from apex.planning.request import Request
from apex.planning.tensor import PlannedTensor
from apex.planning.wishes import Wish
from apex.sources import Source, Tensor

__all__ = ["decide", "planned"]


def decide(
    source: Source, tensors: Sequence[Tensor], wishes: Sequence[Wish], request: Request
) -> list[_core.TensorDecision]:
    """Ask llama.cpp about all tensors, in the order of the output: some of its rules count them.

    Raises ModelFileError where llama.cpp does not know the model, UsageError.
    """
    queries = [
        (tensor.name, list(tensor.shape), tensor.type, wish.type)
        for tensor, wish in zip(tensors, wishes, strict=True)
    ]
    copies = request.file_type == COPY
    try:
        return _core.decide_types(
            source.new_header(),
            # llama.cpp wants a file to open beside the metadata; nothing in it is used.
            str(_core.__file__),
            queries,
            "F16" if copies else request.file_type,
            output_tensor_type=request.output_tensor_type,
            token_embedding_type=request.token_embedding_type,
            pure=request.options.get("pure", False),
            quantize_output_tensor=not request.options.get("leave_output_tensor", False),
            copy=copies,
            has_importance=request.has_importance,
            overrides=list(request.overrides.items()),
        )
    except _core.ModelError as error:
        raise ModelFileError(
            f"llama.cpp does not accept {source.reference.location}: {error}.",
            "the model may be newer than this apex, or its metadata incomplete",
        ) from None
    except ValueError as error:
        raise UsageError(f"{error}.", "check the metadata overrides") from None


def planned(
    tensor: Tensor,
    wish: Wish,
    decision: _core.TensorDecision,
    importance: ImportanceReference | None,
    file_type: str,
) -> PlannedTensor:
    """A tensor with its type and the reason for it; its place is not known yet."""
    decided_by, reason = wish.decided_by, wish.reason
    if file_type == COPY:
        decided_by, reason = "copy", "copied"
    elif not decision.may_quantize:
        decided_by, reason = "llama.cpp", "never quantized"
    elif wish.type is not None and decision.wanted != wish.type:
        # --output-tensor-type and --token-embedding-type come before everything else.
        decided_by, reason = "override", "output or embedding type given"
    if decision.wanted != decision.type:
        reason += f"; {tensor.columns} columns do not fit {decision.wanted}"
    return PlannedTensor(
        tensor,
        decision.type,
        wish.choice.role,
        wish.choice.layer,
        wish.choice.zone,
        decided_by,
        reason,
        decision.wanted,
        importance,
    )
