"""From a model and options to a Plan, or to one error that names everything that is wrong."""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from apex import _core
from apex.errors import ImatrixError, ModelFileError, PlanError, UsageError
from apex.files import ImportanceMatrix, load_imatrix
from apex.planning.headers import output_headers
from apex.planning.importance import Importance, Mismatch, find_importance
from apex.planning.options import COPY, PlanOptions
from apex.planning.planned import TENSOR_TYPES, Plan, PlannedFile, PlannedTensor
from apex.policy import (
    Choice,
    Layout,
    Recipe,
    Role,
    TensorTypeRule,
    choose,
    load_recipe,
    parse_tensor_type,
    parse_tensor_type_file,
)
from apex.sources import ModelFile, Tensor, open_model

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["plan"]

FILE_TYPES = {file_type.name: file_type for file_type in _core.file_types()}
# llama-quantize's other names for two of them.
_FILE_TYPE_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_LAYER = re.compile(r"blk\\?\.(\d+)")
_NAMES_SHOWN = 12


def plan(model: str | os.PathLike[str] | ModelFile, **options: Unpack[PlanOptions]) -> Plan:
    """Decide the type of every tensor of a model, and check all that can be checked beforehand.

    Only headers are read, and the importance matrix; a model whose data is missing can be planned.
    The options are those of ``PlanOptions``. Raises UsageError, ModelFileError, ImatrixError or
    PlanError; each names everything of its kind that is wrong.
    """
    unknown = sorted(set(options) - set(PlanOptions.__annotations__))
    if unknown:
        raise TypeError(f"plan() got unknown options: {', '.join(unknown)}")
    source = model if isinstance(model, ModelFile) else open_model(model)
    if source.is_projector and not _forces_a_type(options):
        return _verbatim(source)
    return _Planner(source, options).plan()


def _forces_a_type(options: PlanOptions) -> bool:
    return bool(
        options.get("file_type") or options.get("tensor_types") or options.get("tensor_type_file")
    )


def _verbatim(model: ModelFile) -> Plan:
    tensors = tuple(
        PlannedTensor(
            tensor, tensor.type, tensor.bytes, Role.OTHER, None, "", "copy", "copied", tensor.type
        )
        for tensor in model.tensors
    )
    note = (
        f"{model.path.name} is a projector (mmproj): it is copied as it is, since tiers are made "
        "for language models and a projector is small; --type forces a type."
    )
    file = PlannedFile(b"", model.header.alignment, tensors)
    return Plan(model, None, COPY, (file,), None, (note,), is_verbatim=True)


@dataclass(frozen=True)
class _Wish:
    """What the options say about a tensor, before llama.cpp has its word."""

    choice: Choice
    type: str | None
    decided_by: str
    reason: str


class _Planner:
    """One call of ``plan``: the options, read and checked, and the steps in order."""

    def __init__(self, model: ModelFile, options: PlanOptions) -> None:
        self.model = model
        self.options = options
        self.notes: list[str] = []
        self.recipe, self.file_type = self._recipe_and_file_type()
        self.output_tensor_type = self._tensor_type("output_tensor_type")
        self.token_embedding_type = self._tensor_type("token_embedding_type")
        self.rules = self._rules()
        self.imatrix: ImportanceMatrix | None = None
        self.imatrix = self._imatrix()
        metadata = cast("MutableMapping[str, Any]", model.metadata)  # converted key by key
        self.layout = Layout.from_metadata(ChainMap[str, Any](self._overrides(), metadata))

    def plan(self) -> Plan:
        tensors = self._ordered()
        wishes = self._wishes(tensors)
        rules = self._decide(tensors, wishes)
        self._check_fits(tensors, rules)
        self._check_requantize(tensors, rules)
        importance = self._importance(tensors, rules)
        planned = [
            self._planned(tensor, wish, rule, importance.get(tensor.name))
            for tensor, wish, rule in zip(tensors, wishes, rules, strict=True)
        ]
        self._check_fallbacks(planned)
        self._note_unreached(planned)
        files = output_headers(
            self.model,
            planned,
            file_type=self._file_type_id(),
            imatrix=self.imatrix,
            overrides=self._overrides(),
            keep_split=self.options.get("keep_split", False),
            split_max_size=self.options.get("split_max_size"),
        )
        tier = self.recipe.name if self.recipe else None
        return Plan(
            self.model,
            tier,
            self.file_type,
            files,
            self.imatrix,
            tuple(self.notes),
            is_sizes_only=self.options.get("sizes_only", False),
        )

    def _file_type_id(self) -> int | None:
        """The value of general.file_type; that of the input where everything is copied."""
        if self.file_type != COPY:
            return FILE_TYPES[self.file_type].id
        value = self.model.metadata.get("general.file_type")
        return value if isinstance(value, int) else None

    # The options.

    def _recipe_and_file_type(self) -> tuple[Recipe | None, str]:
        tier, file_type = self.options.get("tier"), self.options.get("file_type")
        if (tier is None) == (file_type is None):
            raise UsageError(
                "Give either a tier or a file type."
                if tier is None
                else "A tier brings its own file type; give one or the other.",
                "for example --tier i-quality, or --type Q4_K_M",
            )
        edge, near = self.options.get("edge_layers"), self.options.get("near_layers")
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

    def _tensor_type(self, key: str) -> str | None:
        name = self.options.get(key)
        if name is None:
            return None
        return _known_type(str(name), f"--{key.replace('_', '-')}")

    def _rules(self) -> tuple[TensorTypeRule, ...]:
        rules = [parse_tensor_type(text) for text in self.options.get("tensor_types", ())]
        path = self.options.get("tensor_type_file")
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
        if rules and not self._quantizes():
            raise UsageError(
                f"Rules for single tensors have no effect with the file type {self.file_type}.",
                "llama.cpp applies them to quantized file types only, such as Q8_0",
            )
        return tuple(rules)

    def _quantizes(self) -> bool:
        if self.file_type == COPY:
            return False
        return TENSOR_TYPES[FILE_TYPES[self.file_type].default_type].is_quantized

    def _imatrix(self) -> ImportanceMatrix | None:
        given = self.options.get("imatrix")
        if given is None:
            if self.recipe and self._has_importance() and not self.options.get("sizes_only"):
                raise ImatrixError(
                    f"The tier {self.recipe.name} needs an importance matrix.",
                    "give one with --imatrix FILE, or have it made with --imatrix auto"
                    + (f", or use {self.recipe.name[2:]}" if self.recipe.name[:2] == "i-" else ""),
                )
            return None
        if self.recipe and self.recipe.importance == "none":
            self.notes.append(
                f"{self.recipe.name} is used with an importance matrix, which makes it what the "
                f"tiers call i-{self.recipe.name}."
            )
        return given if isinstance(given, ImportanceMatrix) else load_imatrix(given)

    def _overrides(self) -> dict[str, bool | int | float | str]:
        return dict(self.options.get("overrides") or {})

    def _has_importance(self) -> bool:
        """Whether the output will be made with one: some file types give other types then."""
        required = self.recipe is not None and self.recipe.importance == "required"
        return self.imatrix is not None or required

    # The steps.

    def _ordered(self) -> list[Tensor]:
        """The tensors in the order in which llama.cpp writes them."""
        tensors = list(self.model.tensors)
        if self.options.get("keep_split"):
            return sorted(tensors, key=lambda tensor: (tensor.file, tensor.offset))
        order = _core.output_order([tensor.name for tensor in tensors])
        return [tensors[index] for index in order]

    def _wishes(self, tensors: Sequence[Tensor]) -> list[_Wish]:
        names = [tensor.name for tensor in tensors]
        matches = self._matches(names)
        wishes = []
        for name, match in zip(names, matches, strict=True):
            choice = self._choice(name)
            if match >= 0:
                rule = self.rules[match]
                reason = f"{rule.pattern}={rule.type} ({rule.source})"
                wishes.append(_Wish(choice, rule.type, "override", reason))
            elif choice.type is not None and self.recipe is not None:
                reason = f"{self.recipe.name}: {choice.role.value}, {choice.zone}"
                wishes.append(_Wish(choice, choice.type, "tier", reason))
            else:
                wishes.append(_Wish(choice, None, "file type", f"file type {self.file_type}"))
        return wishes

    def _choice(self, name: str) -> Choice:
        if self.recipe is not None:
            return choose(name, self.layout, self.recipe)
        choice = choose(name, self.layout, _NO_RECIPE)
        return replace(choice, zone="")

    def _matches(self, names: Sequence[str]) -> list[int]:
        """For each name the index of its rule, or -1. A rule that nobody can need is an error."""
        patterns = [rule.pattern for rule in self.rules]
        try:
            matches = _core.first_match(patterns, names)
            used = set(matches)
            # A rule may be shadowed by an earlier one; then it still matches by itself.
            idle = [
                rule
                for index, rule in enumerate(self.rules)
                if index not in used and max(_core.first_match([rule.pattern], names)) < 0
            ]
        except ValueError as error:
            raise UsageError(
                f"{error}.", "write a regular expression, as in ffn_down=q6_k"
            ) from None
        absent = [rule for rule in idle if self._is_for_other_layers(rule, names)]
        wrong = [f"{rule.pattern} ({rule.source})" for rule in idle if rule not in absent]
        if wrong:
            raise UsageError(
                f"{_count(len(wrong), 'pattern')} match no tensor of the model: {_names(wrong)}.",
                "apex inspect MODEL lists the tensors",
            )
        if absent:
            self.notes.append(
                f"{_count(len(absent), 'rule')} of {absent[0].source} name tensors that their "
                f"layer does not have: {_names([rule.pattern for rule in absent])}."
            )
        return matches

    def _is_for_other_layers(self, rule: TensorTypeRule, names: Sequence[str]) -> bool:
        """Whether a file's rule is for a tensor that only other layers have.

        Files for hybrid models list attention and ssm tensors for every layer.
        """
        layer = _LAYER.search(rule.pattern)
        if layer is None or rule.source == "--tensor-type":
            return False
        has_layer = any(f"blk.{layer[1]}." in name for name in names)
        anywhere = rule.pattern[: layer.start(1)] + "[0-9]+" + rule.pattern[layer.end(1) :]
        return has_layer and max(_core.first_match([anywhere], names)) >= 0

    def _decide(self, tensors: Sequence[Tensor], wishes: Sequence[_Wish]) -> list[_core.TensorRule]:
        queries = [
            (tensor.name, list(tensor.shape), tensor.type, wish.type)
            for tensor, wish in zip(tensors, wishes, strict=True)
        ]
        copies = self.file_type == COPY
        try:
            return _core.decide_types(
                self.model.header,
                str(self.model.path),
                queries,
                "F16" if copies else self.file_type,
                output_tensor_type=self.output_tensor_type,
                token_embedding_type=self.token_embedding_type,
                pure=self.options.get("pure", False),
                quantize_output_tensor=not self.options.get("leave_output_tensor", False),
                copy=copies,
                has_importance=self._has_importance(),
                overrides=list(self._overrides().items()),
            )
        except _core.ModelError as error:
            raise ModelFileError(
                f"llama.cpp does not accept {self.model.path}: {error}.",
                "the model may be newer than this apex, or its metadata incomplete",
            ) from None
        except ValueError as error:
            raise UsageError(f"{error}.", "check the metadata overrides") from None

    def _check_fits(self, tensors: Sequence[Tensor], rules: Sequence[_core.TensorRule]) -> None:
        """An explicit type for the output or the embedding is taken as it is, without fallback."""
        wrong = [
            f"{tensor.name} ({tensor.columns} columns, {rule.type})"
            for tensor, rule in zip(tensors, rules, strict=True)
            if tensor.columns % TENSOR_TYPES[rule.type].block_weights
        ]
        if wrong:
            raise PlanError(
                f"The rows of {_names(wrong)} are no whole blocks of the type asked for.",
                "choose a type with smaller blocks, such as Q8_0",
            )
        unwritable = sorted(
            {
                rule.type
                for tensor, rule in zip(tensors, rules, strict=True)
                if rule.type != tensor.type and not TENSOR_TYPES[rule.type].has_quantizer
            }
        )
        if unwritable:
            raise PlanError(f"No tensor can be made {_names(unwritable)}.", "choose another type")

    def _check_requantize(
        self, tensors: Sequence[Tensor], rules: Sequence[_core.TensorRule]
    ) -> None:
        changed = [
            tensor
            for tensor, rule in zip(tensors, rules, strict=True)
            if rule.type != tensor.type and not _is_16_or_32_bit(tensor)
        ]
        unreadable = [
            f"{tensor.name} ({tensor.type})"
            for tensor in changed
            if not TENSOR_TYPES[tensor.type].has_dequantizer
        ]
        if unreadable:
            raise PlanError(
                f"{_names(unreadable)} cannot be read as weights.", "leave them as they are"
            )
        if changed and not self.options.get("allow_requantize", False):
            types = sorted({tensor.type for tensor in changed})
            raise PlanError(
                f"{_count(len(changed), 'tensor')} of {self.model.path.name} are quantized already "
                f"({', '.join(types)}).",
                "start from an F16, BF16 or F32 file, or accept the loss with --allow-requantize",
            )

    def _importance(
        self, tensors: Sequence[Tensor], rules: Sequence[_core.TensorRule]
    ) -> dict[str, Importance]:
        """The importance of every tensor that is quantized; all that is wrong in one error."""
        found: dict[str, Importance] = {}
        needed, missing, wrong = [], [], []
        for tensor, rule in zip(tensors, rules, strict=True):
            if rule.type == tensor.type or not TENSOR_TYPES[rule.type].is_quantized:
                continue
            needs = rule.needs_importance or TENSOR_TYPES[rule.type].needs_importance
            match = find_importance(tensor, self.imatrix) if self.imatrix else None
            if isinstance(match, Importance):
                found[tensor.name] = match
            elif isinstance(match, Mismatch) and (needs or not _is_embedding(tensor.name)):
                wrong.append(f"{match.entry} has {match.size} values instead of {match.expected}")
            elif needs or self._tier_needs(tensor, rule):
                needed.append(f"{tensor.name} ({rule.type})")
            elif not _is_embedding(tensor.name) and rule.type not in _DEAF_TYPES:
                missing.append(tensor.name)
        if self.imatrix is not None:
            entries = self.imatrix.entries.items()
            wrong += [f"{name} is not finite" for name, entry in entries if not entry.is_sound()]
        if not self.options.get("sizes_only"):
            self._report_importance(needed, wrong, any_found=bool(found))
        if missing and self.imatrix is not None:
            self.notes.append(
                f"{_count(len(missing), 'tensor')} have no entry in {self.imatrix.path} and are "
                f"quantized without importance: {_names(missing)}."
            )
        mapped = [name for name, importance in found.items() if importance.entry != name]
        if mapped:
            self.notes.append(
                f"{_count(len(mapped), 'tensor')} use the importance of a tensor with the same "
                f"input: {_names(mapped)}."
            )
        return found

    def _tier_needs(self, tensor: Tensor, rule: _core.TensorRule) -> bool:
        """Whether a tier that stands on importance may not do without it for this tensor.

        llama-imatrix sees every matrix product of the trunk. The MTP head does not run there, and
        of MLA's projections an older file knows only the joined form.
        """
        if not self.recipe or self.recipe.importance != "required" or rule.type in _DEAF_TYPES:
            return False
        role = choose(tensor.name, self.layout, self.recipe).role
        return role in _CALIBRATED_ROLES and not tensor.name.endswith(_MLA_NAMES)

    def _report_importance(self, needed: list[str], wrong: list[str], *, any_found: bool) -> None:
        if needed and self.imatrix is None:
            raise ImatrixError(
                f"{_count(len(needed), 'tensor')} would get types that need an importance matrix: "
                f"{_names(needed)}.",
                "give one with --imatrix FILE, or choose a larger type",
            )
        if self.imatrix is None:
            return
        problems = [f"no entry for {name}" for name in needed] + wrong
        if not problems and not any_found and self._quantizes():
            problems = [f"none of its {len(self.imatrix.entries)} entries is for this model"]
        if problems:
            raise ImatrixError(
                f"{self.imatrix.path} does not fit {self.model.path.name}: {'; '.join(problems)}.",
                "make an importance matrix from this very model, with more text if experts are "
                "missing",
            )

    def _planned(
        self, tensor: Tensor, wish: _Wish, rule: _core.TensorRule, importance: Importance | None
    ) -> PlannedTensor:
        decided_by, reason = wish.decided_by, wish.reason
        if self.file_type == COPY:
            decided_by, reason = "copy", "copied"
        elif not rule.may_quantize:
            decided_by, reason = "llama.cpp", "never quantized"
        elif wish.type is not None and rule.wanted != wish.type:
            # --output-tensor-type and --token-embedding-type come before everything else.
            decided_by, reason = "override", "output or embedding type given"
        if rule.wanted != rule.type:
            reason += f"; {tensor.columns} columns do not fit {rule.wanted}"
        return PlannedTensor(
            tensor,
            rule.type,
            _bytes(tensor, rule.type),
            wish.choice.role,
            wish.choice.layer,
            wish.choice.zone,
            decided_by,
            reason,
            rule.wanted,
            importance,
        )

    def _check_fallbacks(self, planned: Iterable[PlannedTensor]) -> None:
        fallbacks = [tensor for tensor in planned if tensor.is_fallback]
        if not fallbacks:
            return
        cost = sum(tensor.fallback_bytes for tensor in fallbacks)
        listed = _names(
            [f"{tensor.name} ({tensor.wanted} -> {tensor.type})" for tensor in fallbacks]
        )
        sentence = (
            f"{_count(len(fallbacks), 'tensor')} have rows that do not fit their type and fall "
            f"back to another, which costs {cost / 2**20:.2f} MiB: {listed}."
        )
        if self.options.get("strict", False):
            raise PlanError(sentence, "choose types with blocks of 32, or leave out --strict")
        self.notes.append(sentence)

    def _note_unreached(self, planned: Iterable[PlannedTensor]) -> None:
        unreached = [
            (tensor.name, len(tensor.importance.unreached), tensor.source.experts)
            for tensor in planned
            if tensor.importance is not None and tensor.importance.unreached
        ]
        if unreached:
            total = sum(count for _, count, _ in unreached)
            listed = _names([f"{name} ({count} of {of})" for name, count, of in unreached])
            self.notes.append(
                f"The calibration never reached {_count(total, 'expert')}, in "
                f"{_count(len(unreached), 'tensor')}: {listed}."
            )


# Types that are written without looking at the importance.
_DEAF_TYPES = ("Q8_0", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")
_CALIBRATED_ROLES = (Role.ROUTED, Role.SHARED, Role.DENSE, Role.ATTENTION, Role.SSM)
_MLA_NAMES = ("attn_kv_b.weight", "attn_k_b.weight", "attn_v_b.weight")

_NO_RECIPE = Recipe("", "", "", "none", {})


def _known_type(name: str, where: str) -> str:
    upper = name.upper()
    facts = TENSOR_TYPES.get(upper)
    if facts is not None and facts.has_quantizer:
        return upper
    known = [facts.name for facts in TENSOR_TYPES.values() if facts.has_quantizer]
    raise UsageError(f"There is no type {name} to quantize to ({where}).", _closest(upper, known))


def _file_type(name: str, where: str) -> str:
    upper = _FILE_TYPE_ALIASES.get(name.upper(), name.upper())
    if upper in FILE_TYPES or upper == COPY:
        return upper
    known = [*FILE_TYPES, COPY]
    raise UsageError(f"There is no file type {name} ({where}).", _closest(upper, known))


def _closest(name: str, known: Sequence[str]) -> str:
    match = get_close_matches(name, known, n=1)
    return (f"did you mean {match[0]}? " if match else "") + f"known: {', '.join(known)}"


def _is_16_or_32_bit(tensor: Tensor) -> bool:
    return tensor.type in ("F32", "F16", "BF16")


def _is_embedding(name: str) -> bool:
    """Tensors that no matrix product runs through in calibration, so that none has an entry."""
    return name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")


def _bytes(tensor: Tensor, type_name: str) -> int:
    facts = TENSOR_TYPES[type_name]
    return tensor.weights // facts.block_weights * facts.block_bytes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
