"""What the options ask for, read and checked as far as that needs no tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from apex.errors import ImatrixError, UsageError
from apex.planning.options import COPY, MetadataValue, PlanOptions
from apex.planning.tensor import REFERENCE, ROUNDINGS
from apex.planning.words import closest
from apex.policy import (
    Recipe,
    TensorTypeRule,
    load_recipe,
    parse_tensor_type,
    parse_tensor_type_file,
)
from apex.types import FILE_TYPES, TYPES

if TYPE_CHECKING:
    from apex.files import ImportanceMatrix, SecondMoments

__all__ = ["Request", "read_options"]

# llama-quantize's other names for three file types.
_FILE_TYPE_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


@dataclass(frozen=True)
class Request:
    """The options of one plan, every name in them known.

    Attributes:
        recipe: the tier or recipe, with the widths that were asked for; None for a file type.
        file_type: the file type, or the recipe's base.
        rules: the user's rules, those of the command line first.
        types: types by tensor name.
        imatrix: the importance matrix, or None.
        rounding: how weights become levels, one of ``ROUNDINGS``.
        second_moments: what compensated rounding stands on, or None.
        options: the options as they were given.
    """

    recipe: Recipe | None
    file_type: str
    rules: tuple[TensorTypeRule, ...]
    types: Mapping[str, str]
    output_tensor_type: str | None
    token_embedding_type: str | None
    imatrix: ImportanceMatrix | None
    rounding: str
    second_moments: SecondMoments | None
    options: PlanOptions

    @property
    def overrides(self) -> dict[str, MetadataValue]:
        """Metadata values that are replaced, by key."""
        return dict(self.options.get("overrides") or {})

    @property
    def quantizes(self) -> bool:
        """Whether the file type is a quantized one; llama.cpp heeds rules only then."""
        return self.file_type != COPY and TYPES[self.default_type].is_quantized

    @property
    def default_type(self) -> str:
        """The tensor type of the file type where none of its rules says otherwise."""
        return FILE_TYPES[self.file_type].default_type

    @property
    def has_importance(self) -> bool:
        """Whether the output will be made with importance: some file types differ then."""
        return self.imatrix is not None or self.needs_importance

    @property
    def needs_importance(self) -> bool:
        """Whether the recipe may not be carried out without an importance matrix."""
        return self.recipe is not None and self.recipe.importance == "required"


def read_options(options: PlanOptions) -> Request:
    """Read the options. Raises UsageError, ImatrixError."""
    recipe, file_type = _recipe_and_file_type(options)
    rounding = _rounding(options)
    request = Request(
        recipe,
        file_type,
        _rules(options),
        _types(options),
        _tensor_type(options.get("output_tensor_type"), "--output-tensor-type"),
        _tensor_type(options.get("token_embedding_type"), "--token-embedding-type"),
        _imatrix(options, recipe),
        rounding,
        _second_moments(options),
        options,
    )
    if (request.rules or request.types) and not request.quantizes:
        raise UsageError(
            f"Types for single tensors have no effect with the file type {file_type}.",
            "llama.cpp applies them to quantized file types only, such as Q8_0",
        )
    return request


def _recipe_and_file_type(options: PlanOptions) -> tuple[Recipe | None, str]:
    tier, file_type = options.get("tier"), options.get("file_type")
    edge, near = options.get("edge_layers"), options.get("near_layers")
    if tier is None and file_type is None:
        raise UsageError(
            "A tier or a file type is missing.", "for example --tier i-quality, or --type Q4_K_M"
        )
    if tier is not None and file_type is not None:
        raise UsageError(
            "A tier brings its own file type; give one or the other.",
            "for example --tier i-quality, or --type Q4_K_M",
        )
    if file_type is not None:
        if edge is not None or near is not None:
            raise UsageError(
                "Layer widths belong to a tier; a file type has no gradient.",
                "use --tier, or leave out --edge-layers and --near-layers",
            )
        return None, _file_type(file_type, "--type")
    recipe = load_recipe(cast("str | os.PathLike[str]", tier)).widths(edge, near)
    for role, zones in recipe.types.items():
        for zone, name in zones.items():
            _known_type(name, f"recipe {recipe.name}, {role.value} {zone}")
    return recipe, _file_type(recipe.base, f"recipe {recipe.name}")


def _rules(options: PlanOptions) -> tuple[TensorTypeRule, ...]:
    rules = [parse_tensor_type(text) for text in options.get("tensor_types", ())]
    path = options.get("tensor_type_file")
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UsageError(
                f"The tensor-type file {os.fspath(path)} cannot be read: {error.strerror}.",
                "check the path",
            ) from None
        rules += parse_tensor_type_file(text, os.fspath(path))
    for rule in rules:
        _known_type(rule.type, f"{rule.source}, {rule.pattern}")
    return tuple(rules)


def _types(options: PlanOptions) -> dict[str, str]:
    types = options.get("types") or {}
    return {name: _known_type(type_name, name) for name, type_name in types.items()}


def _tensor_type(name: str | None, option: str) -> str | None:
    return None if name is None else _known_type(str(name), option)


def _imatrix(options: PlanOptions, recipe: Recipe | None) -> ImportanceMatrix | None:
    given = options.get("imatrix")
    if isinstance(given, (str, os.PathLike)):
        from apex.files import load_imatrix

        return load_imatrix(given)
    if given is not None:
        return given
    if recipe and recipe.importance == "required" and not options.get("sizes_only"):
        plain = f", or use {recipe.name[2:]}" if recipe.name[:2] == "i-" else ""
        raise ImatrixError(
            f"The tier {recipe.name} needs an importance matrix.",
            f"give one with --imatrix FILE, or have it made with --imatrix auto{plain}",
        )
    rounding = options.get("rounding", REFERENCE)
    if rounding != REFERENCE and not options.get("sizes_only"):
        raise ImatrixError(
            f"The rounding {rounding} needs an importance matrix.",
            "give one with --imatrix FILE, or have it made with --imatrix auto",
        )
    return None


def _rounding(options: PlanOptions) -> str:
    name = options.get("rounding", REFERENCE)
    if name not in ROUNDINGS:
        raise UsageError(f"There is no rounding {name}.", closest(name, ROUNDINGS))
    has_moments = options.get("second_moments") is not None
    if name == "compensated" and not has_moments:
        raise UsageError(
            "The rounding compensated needs second moments.",
            "give them with --second-moments FILE; apex imatrix MODEL --second-moments FILE "
            "collects them",
        )
    if name != "compensated" and has_moments:
        raise UsageError(
            f"Second moments do nothing where the rounding is {name}.",
            "add --rounding compensated, or leave out --second-moments",
        )
    return name


def _second_moments(options: PlanOptions) -> SecondMoments | None:
    given = options.get("second_moments")
    if isinstance(given, (str, os.PathLike)):
        from apex.files import load_second_moments

        return load_second_moments(given)
    return given


def _known_type(name: str, where: str) -> str:
    upper = name.upper()
    facts = TYPES.get(upper)
    if facts is not None and facts.has_quantizer:
        return upper
    known = [facts.name for facts in TYPES.values() if facts.has_quantizer]
    raise UsageError(f"There is no type {name} to quantize to ({where}).", closest(upper, known))


def _file_type(name: str, where: str) -> str:
    upper = _FILE_TYPE_ALIASES.get(name.upper(), name.upper())
    if upper in FILE_TYPES or upper == COPY:
        return upper
    known = [*FILE_TYPES, COPY]
    raise UsageError(f"There is no file type {name} ({where}).", closest(upper, known))
