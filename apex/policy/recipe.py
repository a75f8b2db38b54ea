"""Recipes: one type for every role and zone, written as TOML.

The tiers are the recipes that come with apex, one file each in ``tiers/``. A user's own recipe has
the same form; see ``tiers/quality.toml`` for a commented example.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from apex.errors import UsageError
from apex.policy.gradient import ZONES
from apex.policy.roles import Role

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable

    import tomllib
else:
    from importlib.abc import Traversable

    import tomli as tomllib

__all__ = ["Recipe", "is_tier", "load_recipe", "tiers"]


@dataclass(frozen=True)
class Recipe:
    """A complete answer to "which type for which role, where".

    Attributes:
        name: the tier's name, or the file's name without its suffix.
        description: one sentence for people.
        base: the llama.cpp file type, upper case ("Q6_K", "Q3_K_M"), that decides for every tensor
            that ``types`` does not name, embedding and output among them.
        importance: "required" where quantizing needs an importance matrix, else "none".
        types: role -> zone -> ggml type, upper case. A role that is missing is left to ``base``.
        edge_layers: width of the edge at each end of the stack, in layers.
        near_layers: width of the near zone on each side, in layers.
        attention_edge_layers: width of the edge for attention, ssm and other tensors.
    """

    name: str
    description: str
    base: str
    importance: str
    types: Mapping[Role, Mapping[str, str]]
    edge_layers: int = 5
    near_layers: int = 5
    attention_edge_layers: int = 3

    def widths(self, edge_layers: int | None, near_layers: int | None) -> Recipe:
        """The same recipe with other widths, None keeping the present one.

        A model of 16 layers has no middle at 5 + 5; 2 + 2 gives it the proportions of 40 layers.
        Raises UsageError if a width is negative.
        """
        edge = self.edge_layers if edge_layers is None else edge_layers
        near = self.near_layers if near_layers is None else near_layers
        for word, width in (("edge", edge), ("near", near)):
            if width < 0:
                raise UsageError(
                    f"The {word} cannot be {width} layers wide.", "widths are 0 or more layers"
                )
        return replace(self, edge_layers=edge, near_layers=near)


# An "i-" tier is the same table with an importance matrix; the small tiers never go without one.
_WITH_OR_WITHOUT = ("quality", "balanced", "compact")
_ALWAYS_WITH = ("mini", "nano", "micro")


def tiers() -> tuple[Recipe, ...]:
    """All tiers, from the best quality to the smallest file."""
    names = [name for tier in _WITH_OR_WITHOUT for name in (tier, f"i-{tier}")]
    return tuple(_load_tier(name) for name in (*names, *_ALWAYS_WITH))


def load_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """The tier of that name (case does not matter), or the recipe in that TOML file.

    A string is first taken as a tier's name; write ``./quality`` for a file that is called like
    one. Raises UsageError if there is no such tier or file, or if the file is not a valid recipe.
    """
    name = os.fspath(name_or_path).lower()
    if is_tier(name_or_path):
        return _load_tier(name)
    path = Path(name_or_path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if (
            isinstance(name_or_path, str)
            and not name.endswith(".toml")
            and path.name == name_or_path
        ):
            valid = [recipe.name for recipe in tiers()]
            raise UsageError(
                f"There is no tier {name_or_path!r}.",
                f"{_closest(name, valid, 'tiers')}; a recipe of your own is given as a .toml file",
            ) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"The recipe {path} cannot be read: {reason}.", "name a tier or a .toml file"
        ) from None
    return _Reader(str(path)).recipe(path.stem, content)


def is_tier(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether ``load_recipe`` takes this as the name of a tier, not as that of a file."""
    name = os.fspath(name_or_path).lower().removeprefix("i-")
    return isinstance(name_or_path, str) and name in (*_WITH_OR_WITHOUT, *_ALWAYS_WITH)


def _tier_file(name: str) -> Traversable:
    return files(__package__) / "tiers" / f"{name.removeprefix('i-')}.toml"


def _load_tier(name: str) -> Recipe:
    tier = name.removeprefix("i-")
    recipe = _Reader(f"{tier}.toml").recipe(tier, _tier_file(tier).read_bytes())
    if name != tier and tier in _WITH_OR_WITHOUT:
        description = f"{recipe.description} With an importance matrix."
        return replace(recipe, name=name, description=description, importance="required")
    return recipe


_KEYS = ("description", "base", "importance", "widths", "types")
_WIDTHS = {"edge": "edge_layers", "near": "near_layers", "attention_edge": "attention_edge_layers"}
_IMPORTANCE = ("none", "required")
_ROLES = {role.name.lower(): role for role in Role}
_TYPE_SHAPE = re.compile(r"[A-Za-z0-9_]+")


class _Reader:
    """Turns one TOML file into a Recipe; every complaint names the file and the key."""

    def __init__(self, file: str) -> None:
        self.file = file

    def recipe(self, name: str, content: bytes) -> Recipe:
        try:
            document = tomllib.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{self.file}: this is not valid TOML: {error}.", "a recipe is a TOML file, UTF-8"
            ) from None
        self.check_keys("", document, _KEYS, "keys")
        for key in ("base", "types"):
            if key not in document:
                raise self.error(key, "is missing", "a recipe needs the keys base and types")
        importance = self.string("importance", document.get("importance", "none"))
        if importance not in _IMPORTANCE:
            raise self.error(
                "importance",
                f"cannot be {importance!r}",
                _closest(importance, _IMPORTANCE, "values"),
            )
        return Recipe(
            name=name,
            description=self.string("description", document.get("description", "")),
            base=self.type_name("base", document["base"]),
            importance=importance,
            types=self.types(document["types"]),
            **self.widths(document.get("widths", {})),
        )

    def widths(self, value: object) -> dict[str, int]:
        table = self.table("widths", value)
        self.check_keys("widths", table, _WIDTHS, "widths")
        widths = {}
        for key, width in table.items():
            # TOML's true is Python's True, which is an int.
            if not isinstance(width, int) or isinstance(width, bool) or width < 0:
                raise self.error(
                    f"widths.{key}", f"cannot be {width!r}", "a width is a number of layers, 0 up"
                )
            widths[_WIDTHS[key]] = width
        return widths

    def types(self, value: object) -> dict[Role, dict[str, str]]:
        table = self.table("types", value)
        self.check_keys("types", table, _ROLES, "roles")
        if not table:
            raise self.error("types", "names no role", f"roles: {', '.join(_ROLES)}")
        return {_ROLES[key]: self.zones(key, zones) for key, zones in table.items()}

    def zones(self, role: str, value: object) -> dict[str, str]:
        key, valid = f"types.{role}", ZONES[_ROLES[role]]
        if isinstance(value, str):
            return dict.fromkeys(valid, self.type_name(key, value))
        table = self.table(key, value, "a type, or a table of types by zone")
        self.check_keys(key, table, valid, "zones")
        for zone in valid:
            if zone not in table:
                raise self.error(
                    f"{key}.{zone}",
                    "is missing",
                    f'give a type for each of {", ".join(valid)}, or {role} = "Q8_0" for all',
                )
        return {zone: self.type_name(f"{key}.{zone}", table[zone]) for zone in valid}

    def type_name(self, key: str, value: object) -> str:
        text = self.string(key, value)
        if not _TYPE_SHAPE.fullmatch(text):
            raise self.error(key, f"cannot be {text!r}", 'a type looks like "Q4_K" or "IQ2_XS"')
        return text.upper()

    def string(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {value!r}", "write it in quotes")
        return value

    def table(self, key: str, value: object, wanted: str = "a table") -> Mapping[str, object]:
        if not isinstance(value, dict):
            raise self.error(key, f"must be {wanted}, not {value!r}", f"{key} = {{...}}")
        return value

    def check_keys(
        self, where: str, table: Mapping[str, object], valid: Iterable[str], kind: str
    ) -> None:
        for key in table:
            if key not in valid:
                path = f"{where}.{key}" if where else key
                raise self.error(path, f"is not one of the {kind}", _closest(key, valid, kind))

    def error(self, key: str, problem: str, hint: str) -> UsageError:
        return UsageError(f"{self.file}: {key} {problem}.", hint)


def _closest(word: str, valid: Iterable[str], kind: str) -> str:
    """A hint: the valid word that resembles ``word`` most, if any does, and all of them."""
    known = list(valid)
    match = get_close_matches(word.lower(), known, n=1)
    listing = f"{kind}: {', '.join(known)}"
    return f"did you mean {match[0]!r}? {listing}" if match else listing
