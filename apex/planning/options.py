"""What a plan can be asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Union

from apex.policy import is_tier

if TYPE_CHECKING:
    from apex.files import ImportanceMatrix, SecondMoments

__all__ = ["COPY", "MetadataValue", "PlanOptions", "files_read"]

# The file type that keeps every tensor as it is, as llama-quantize calls it.
COPY = "COPY"

MetadataValue = Union[bool, int, float, str]  # noqa: UP007 - evaluated at run time on 3.10


class PlanOptions(TypedDict, total=False):
    """The options of ``plan`` and ``quantize``; all may be left out but one of the first two.

    Keys:
        tier: a tier's name, as in "i-quality", or the path of a recipe.
        file_type: a llama.cpp file type, as in "Q4_K_M", or "COPY", instead of a tier.
        imatrix: an importance matrix, or its path, in GGUF form or .dat.
        imatrix_name: what the output calls it, in place of its path.
        rounding: how weights become levels: "reference", llama.cpp's bytes, unless it is given;
            "unshrunk", its levels, but scales by which outputs keep their size; "compensated", so
            that errors of columns whose inputs move together cancel.
        second_moments: for compensated rounding, a second-moment file, or its path.
        edge_layers, near_layers: other widths of the recipe's gradient, in layers.
        tensor_types: rules "regex=type", as llama-quantize reads them; the first match wins, and
            wins over the tier.
        tensor_type_file: a file of such rules, which come after those of ``tensor_types``.
        types: types of single tensors by name; a rule wins over them, and they win over the tier.
        types_origin: where ``types`` come from, for the reason that the plan gives.
        title: what the plan is called in place of a tier, such as fit-mini.
        output_tensor_type, token_embedding_type: the type of output.weight, of token_embd.weight.
        pure: no mixture: the file type's own type for every tensor.
        leave_output_tensor: keep output.weight as it is.
        allow_requantize: accept tensors that are quantized already.
        overrides: metadata values that are replaced, by key.
        strict: a fallback to another type is an error.
        keep_split: write shards like the input's.
        split_max_size: write shards that hold at most this many bytes of tensors.
        sizes_only: skip the checks of the importance, to see how large the output would be; such a
            plan cannot be carried out.
    """

    tier: str | os.PathLike[str] | None
    file_type: str | None
    imatrix: str | os.PathLike[str] | ImportanceMatrix | None
    imatrix_name: str
    rounding: str
    second_moments: str | os.PathLike[str] | SecondMoments | None
    edge_layers: int | None
    near_layers: int | None
    tensor_types: Sequence[str]
    tensor_type_file: str | os.PathLike[str] | None
    types: Mapping[str, str]
    types_origin: str
    title: str
    output_tensor_type: str | None
    token_embedding_type: str | None
    pure: bool
    leave_output_tensor: bool
    allow_requantize: bool
    overrides: Mapping[str, MetadataValue]
    strict: bool
    keep_split: bool
    split_max_size: int | None
    sizes_only: bool


def files_read(options: PlanOptions) -> tuple[Path, ...]:
    """The files that options name: a recipe, an importance matrix, second moments, rules."""
    tier, matrix = options.get("tier"), options.get("imatrix")
    moments = options.get("second_moments")
    recipe = None if tier is None or is_tier(tier) else tier
    if matrix is not None and not isinstance(matrix, (str, os.PathLike)):
        matrix = matrix.path
    if moments is not None and not isinstance(moments, (str, os.PathLike)):
        moments = moments.path
    named = (recipe, matrix, moments, options.get("tensor_type_file"))
    return tuple(Path(path) for path in named if path is not None)
