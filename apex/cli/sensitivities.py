"""``apex measure show``: what was measured, as tables and as a heat map."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli.arguments import JsonArgument, OverwriteArgument
from apex.cli.output import Printer, Table
from apex.cli.stopping import ending

if TYPE_CHECKING:
    from apex.reporting import HeatCell
    from apex.sensitivity import Sensitivity, Slope

__all__ = ["kind_table", "show"]

# Layers of one band of the heat map, which has a character for each; 40 fit with the longest kind.
_BAND = 50
_NOT_MEASURED = "."


@dataclass(frozen=True, kw_only=True)
class ShowArguments(JsonArgument, OverwriteArgument):
    """What ``apex measure show`` is given."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that apex measure wrote.")]
    groups: Annotated[bool, typer.Option("--groups", help="List every group and its probes.")] = (
        False
    )
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Also draw the heat map there. Needs matplotlib."),
    ] = None


def show(given: ShowArguments) -> None:
    """What deserves bits: sensitivity per kind of tensor and layer, from FILE."""
    from apex.files import check_output
    from apex.sensitivity import load_sensitivity, slopes_of

    printer = Printer(json=given.json)
    sensitivity = load_sensitivity(given.file)
    if given.plot is not None:
        check_output([given.plot], [given.file], overwrite=given.overwrite)
    slopes = slopes_of(sensitivity)
    printer.data(lambda: _to_dict(given.file, sensitivity, slopes))
    _print_head(sensitivity, printer)
    cells = heat_cells(sensitivity, slopes)
    _print_heat(cells, sensitivity, printer)
    printer.table(kind_table(sensitivity))
    if given.groups:
        printer.table(_group_table(sensitivity, slopes))
    if given.plot is not None:
        _draw(cells, given.plot, given.file, printer)


def _draw(cells: Sequence[HeatCell], path: Path, source: Path, printer: Printer) -> None:
    from apex.errors import SensitivityError
    from apex.files import OutputSet
    from apex.reporting import heat_map

    if not cells:
        raise SensitivityError(f"{source} has no probe yet.", "let apex measure run longer")
    with ending("nothing was left behind"), OutputSet([path]) as output:
        output.files[0].write(heat_map(cells).png)
        output.commit()
    printer.line(f"wrote {path}")


def _print_head(sensitivity: Sensitivity, printer: Printer) -> None:
    model, text = sensitivity.model, sensitivity.text
    printer.line(f"{model.name} ({model.architecture}, {model.weights:,} weights)")
    printer.line(
        f"measured as {sensitivity.resident_type} over {text.chunks} "
        f"chunk{'s' if text.chunks != 1 else ''} of {text.context_length} tokens, "
        f"{text.positions:,} positions compared"
    )
    printer.paragraph("texts: " + ", ".join(text.names))
    matrix = sensitivity.imatrix[:12]
    printer.line(f"importance matrix: {matrix}" if matrix else "without importance matrix")
    if sensitivity.rounding != "reference":
        moments = sensitivity.second_moments[:12]
        with_them = f", second moments: {moments}" if moments else ""
        printer.line(f"rounding: {sensitivity.rounding}{with_them}")
    printer.line(f"floor: {sensitivity.floor:.3g} nats, which any change costs")
    if not sensitivity.is_complete:
        printer.note("the measurement is not complete")
    printer.line()


def heat_cells(sensitivity: Sensitivity, slopes: Mapping[str, Slope]) -> list[HeatCell]:
    """The mean sensitivity of each kind in each layer, in the order of ``KINDS``."""
    from apex.reporting import HeatCell
    from apex.sensitivity import KINDS

    found: dict[tuple[str, int | None], list[Slope]] = defaultdict(list)
    for group in sensitivity.groups:
        if group.name in slopes:
            found[group.kind, group.layer].append(slopes[group.name])
    cells = [
        HeatCell(
            kind,
            layer,
            fmean(slope.value for slope in several),
            math.hypot(*(slope.error for slope in several)) / len(several),
        )
        for (kind, layer), several in found.items()
    ]
    place = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(
        cells,
        key=lambda cell: (
            place.get(cell.kind, len(place)),
            cell.kind,
            -1 if cell.layer is None else cell.layer,
        ),
    )


def _print_heat(cells: Sequence[HeatCell], sensitivity: Sensitivity, printer: Printer) -> None:
    """Kinds from top to bottom, layers from left to right: a digit each, on a logarithmic scale."""
    measured = {(group.kind, group.layer) for group in sensitivity.groups if group.probes}
    values = {
        (cell.kind, cell.layer): cell.value
        for cell in cells
        if cell.value > 0 and (cell.kind, cell.layer) in measured
    }
    if not values:
        return
    low, high = min(values.values()), max(values.values())
    step = math.log(high / low) / 9 if high > low else 1.0
    shown = {
        place: "0" if value <= low else str(round(math.log(value / low) / step))
        for place, value in values.items()
    }
    for cell in cells:  # a slope of zero has no logarithm
        place = cell.kind, cell.layer
        shown.setdefault(place, "0" if place in measured else _NOT_MEASURED)
    for line in heat_lines(shown):
        printer.line(line)
    printer.paragraph(
        f"0: {low:.2g} nats per unit of relative error, 9: {high:.2g}; each step is "
        f"{math.exp(step):.2g} times as much."
    )
    if any(layer is None for _, layer in shown):
        printer.paragraph("The column - holds what lies in no layer.")
    if _NOT_MEASURED in shown.values():
        printer.paragraph(f"{_NOT_MEASURED}: not measured, estimated from layers nearby.")
    printer.line()


def heat_lines(shown: Mapping[tuple[str, int | None], str]) -> Iterator[str]:
    """A character for each kind and layer, under the numbers of the layers."""
    kinds = list(dict.fromkeys(kind for kind, _ in shown))
    width = max(map(len, kinds))
    layers = 1 + max((layer for _, layer in shown if layer is not None), default=-1)
    for first in range(0, max(layers, 1), _BAND):
        band = range(first, min(first + _BAND, layers))
        tens = "".join(str(layer // 10 % 10) if layer % 10 == 0 else " " for layer in band)
        yield f"{'layer':<{width}}   {tens}".rstrip()
        yield f"{'':<{width}} - " + "".join(str(layer % 10) for layer in band)
        for kind in kinds:
            outside = shown.get((kind, None), " ") if first == 0 else " "
            row = "".join(shown.get((kind, layer), " ") for layer in band)
            yield f"{kind:<{width}} {outside} {row}".rstrip()
        yield ""


def kind_table(sensitivity: Sensitivity) -> Table:
    """What deserves bits: the kinds of tensors, from the most sensitive."""
    from apex.sensitivity import slopes_of

    slopes = slopes_of(sensitivity)
    values: dict[str, list[float]] = defaultdict(list)
    probes: dict[str, int] = defaultdict(int)
    for group in sensitivity.groups:
        if group.probes:
            values[group.kind].append(slopes[group.name].value)
        probes[group.kind] += len(group.probes)
    numbers = ("mean", "least", "most", "probes")
    heading = "Sensitivity, in nats per unit of relative error: what deserves bits"
    table = Table(heading, ("kind", *numbers), numbers)
    for kind in sorted(probes, key=lambda kind: -fmean(values[kind]) if values[kind] else math.inf):
        own = values[kind]
        cells = [f"{each:.3g}" for each in (fmean(own), min(own), max(own))] if own else [""] * 3
        table.add(kind, *cells, probes[kind])
    return table


def _group_table(sensitivity: Sensitivity, slopes: Mapping[str, Slope]) -> Table:
    numbers = ("distance", "KL", "sensitivity")
    table = Table("Groups", ("group", "probe", *numbers), numbers)
    for group in sensitivity.groups:
        slope = slopes.get(group.name)
        told = "" if slope is None else f"{slope.value:.3g} ± {slope.error:.2g}"
        if slope is not None and not slope.is_measured:
            told = f"about {slope.value:.3g}"
        table.add(group.name, "", "", "", told)
        for probe in group.probes:
            kl = f"{probe.kl:.3g} ± {probe.error:.2g}"
            table.add("", probe.type, f"{probe.distance:.4g}", kl, "")
    return table


def _to_dict(path: Path, sensitivity: Sensitivity, slopes: Mapping[str, Slope]) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": asdict(sensitivity.model),
        "text": asdict(sensitivity.text),
        "resident_type": sensitivity.resident_type,
        "imatrix": sensitivity.imatrix,
        "rounding": sensitivity.rounding,
        "second_moments": sensitivity.second_moments,
        "floor": sensitivity.floor,
        "is_complete": sensitivity.is_complete,
        "settings": dict(sensitivity.settings),
        "groups": [
            asdict(group)
            | {"sensitivity": asdict(slopes[group.name]) if group.name in slopes else None}
            for group in sensitivity.groups
        ],
    }
