"""The values of options as Python has them, without Typer's own way, which imports pydantic.

That takes longer than everything else that a command does before its work. Only what is simple and
right is converted here; for the rest, and for what is to be said about it, Typer is asked. If Typer
no longer looks at ``_runtime_param``, everything works as before, only later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

import typer

__all__ = ["Command", "Group"]


class _QuickParameters:
    """What makes a command of Typer's convert simple values by itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, as Typer has them."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "_runtime_param", ...) is None:
                param._runtime_param = _Quick()
        return params


class Command(_QuickParameters, typer.core.TyperCommand):
    """A command."""


class Group(_QuickParameters, typer.core.TyperGroup):
    """Some commands."""


class _Quick:
    """Stands where Typer keeps how a parameter is converted."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of a parameter; Typer's BadParameter where there is none."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        try:
            return _convert(value, param.type_descriptor)
        except ValueError:
            param._runtime_param = None
            return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _convert(value: Any, descriptor: Any) -> Any:
    """Raises ValueError for what is not simple, or not right."""
    kind = descriptor.annotation
    if get_origin(kind) is list and not isinstance(value, str):
        (item_kind,) = get_args(kind)
        return [_convert_one(item, item_kind, descriptor.parameter_info) for item in value]
    return _convert_one(value, kind, descriptor.parameter_info)


def _convert_one(value: Any, kind: Any, info: Any) -> Any:
    if kind not in (str, int, float, Path) or not isinstance(value, (str, int, float, Path)):
        raise ValueError
    result = kind(value)
    if (info.min is not None and result < info.min) or (info.max is not None and result > info.max):
        raise ValueError
    return result
