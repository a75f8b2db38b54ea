"""The user's own rules for single tensors, in the notation of llama-quantize.

A rule is ``pattern=type``: a regular expression, searched anywhere in the tensor's name, and a
ggml type. Whether the pattern compiles and the type exists is checked where the rules are applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from apex.errors import UsageError

__all__ = ["TensorTypeRule", "parse_tensor_type", "parse_tensor_type_file"]

_HINT = "write pattern=type, for example attn_q=q8_0"
_TYPE_SHAPE = re.compile(r"[A-Za-z0-9_]+")
# What C++ streams take for white space; str.split() knows more characters.
_WORD = re.compile(r"[^ \t\n\v\f\r]+")
# llama-quantize lowers ASCII letters only, escapes such as \D included.
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class TensorTypeRule:
    """One rule.

    Attributes:
        pattern: the regular expression, in lower case as llama-quantize reads it.
        type: the ggml type, upper case.
        source: where the rule comes from: "--tensor-type" or a file's name.
    """

    pattern: str
    type: str
    source: str


def parse_tensor_type(text: str, source: str = "--tensor-type") -> TensorTypeRule:
    """Read one rule, such as ``attn_q=q8_0``; raises UsageError where it is malformed."""
    return _parse(text, source, where=source)


def parse_tensor_type_file(text: str, source: str) -> tuple[TensorTypeRule, ...]:
    """Read the rules of a file: separated by white space, lines that begin with ``#`` ignored.

    Raises UsageError, naming ``source`` and the line, where a rule is malformed.
    """
    return tuple(
        _parse(word, source, where=f"{source}, line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if not line.lstrip().startswith("#")
        for word in _WORD.findall(line)
    )


def _parse(text: str, source: str, where: str) -> TensorTypeRule:
    pattern, equals, type_name = text.partition("=")
    if not equals:
        raise UsageError(f"{where}: {text!r} has no '='.", _HINT)
    if not _WORD.fullmatch(pattern):
        problem = "has white space in" if pattern else "lacks"
        raise UsageError(f"{where}: {text!r} {problem} the pattern before '='.", _HINT)
    if not _TYPE_SHAPE.fullmatch(type_name):
        problem = f"has {type_name!r} for a type" if type_name else "lacks the type after '='"
        raise UsageError(f"{where}: {text!r} {problem}.", _HINT)
    return TensorTypeRule(pattern.translate(_LOWER), type_name.upper(), source)
