"""Maps of models: every matrix of every layer, its type and its error. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apex.reporting.drawing import new_figure, readable
from apex.reporting.results import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_map"]


def draw_map(model: Model) -> Figure | None:
    """Layers from left to right, matrices from top to bottom, grouped by role; None without any."""
    cells = [tensor for tensor in model.tensors if tensor["layer"] is not None]
    if not cells:
        return None
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    rows = _map_rows(cells)
    places = {row: index for index, row in enumerate(rows)}
    layers = 1 + max(tensor["layer"] for tensor in cells)
    types = _types_by_bits(cells)
    kinds = np.full((len(rows), layers), np.nan)
    errors = np.full((len(rows), layers), np.nan)
    for tensor in cells:
        where = places[_map_row(tensor)], tensor["layer"]
        kinds[where] = types.index(tensor["type"])
        if tensor["rmse"]:
            errors[where] = tensor["rmse"]
    has_errors = bool(np.isfinite(errors).any())
    panels = 2 if has_errors else 1
    figure, axes = new_figure(
        panels, width=2.6 + 0.16 * layers + 2.2, height=(1.4 + 0.21 * len(rows)) * panels
    )
    colours = _type_colours(len(types))
    axes[0].imshow(
        kinds, aspect="auto", cmap=colours, vmin=-0.5, vmax=len(types) - 0.5, interpolation="none"
    )
    axes[0].set_title("type")
    axes[0].legend(
        handles=[Patch(color=colours(index), label=name) for index, name in enumerate(types)],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
    )
    if has_errors:
        image = axes[1].imshow(
            errors, aspect="auto", cmap="viridis_r", norm=LogNorm(), interpolation="none"
        )
        axes[1].set_title("error, relative")
        readable(figure.colorbar(image, ax=axes[1]).ax.yaxis)
    for panel in axes:
        panel.set_yticks(range(len(rows)), _row_labels(rows), fontsize=7)
        panel.set_xlabel("layer")
        panel.grid(visible=False)
        _separate_roles(panel, [role for role, _ in rows])
    return figure


def _map_row(tensor: dict[str, Any]) -> tuple[str, str]:
    name = tensor["name"].split(".", 2)[-1].removesuffix(".weight")
    return tensor["role"], name


def _map_rows(cells: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(role, matrix), roles in the order in which the model has them."""
    roles = list(dict.fromkeys(tensor["role"] for tensor in cells))
    found = {_map_row(tensor) for tensor in cells}
    return sorted(found, key=lambda row: (roles.index(row[0]), row[1]))


def _row_labels(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names of matrices; the first of a role has the role's name before it."""
    return [
        name if index and rows[index - 1][0] == role else f"{role}:  {name}"
        for index, (role, name) in enumerate(rows)
    ]


def _types_by_bits(cells: Sequence[dict[str, Any]]) -> list[str]:
    bits = {tensor["type"]: tensor["bits_per_weight"] for tensor in cells}
    return sorted(bits, key=lambda name: (bits[name], name))


def _type_colours(count: int) -> Any:
    """From few bits, warm, to many, cold."""
    from matplotlib import colormaps

    return colormaps["Spectral"].resampled(max(count, 2))


def _separate_roles(axes: Axes, roles: Sequence[str]) -> None:
    for index in range(1, len(roles)):
        if roles[index] != roles[index - 1]:
            axes.axhline(index - 0.5, color="#333333", linewidth=0.8)
