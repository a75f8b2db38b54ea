"""``apex demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from apex.cli.output import Printer
from apex.cli.progress import showing_progress
from apex.cli.stopping import ending
from apex.cli.verifying import print_report
from apex.cli.written import print_result
from apex.errors import OutputError

__all__ = ["demo"]

_PROMPT = "The river runs through the valley and under the old stone bridge."
_NEXT_STEPS = """
With a real model (F16, BF16 or F32 GGUF, from convert_hf_to_gguf.py of llama.cpp):
  apex plan model.gguf --all-tiers
  apex quantize model.gguf model-i-quality.gguf --tier i-quality --imatrix auto
  apex verify model-i-quality.gguf model.gguf --imatrix auto
The best file for a size, from what the model itself shows:
  apex measure model.gguf --imatrix auto
  apex quantize model.gguf model-fit.gguf --size 16GiB --imatrix auto"""


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """What ``apex demo`` is given."""

    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Where the two files go, 90 MB together; they are made anew each time.",
        ),
    ] = Path("apex-demo")
    tier: Annotated[
        str, typer.Option(metavar="NAME", help="A tier that needs no importance matrix.")
    ] = "quality"


def demo(given: DemoArguments) -> None:
    """Make a small Mixture-of-Experts model, quantize and verify it, and run both."""
    import apex

    printer = Printer()
    recipe = apex.load_recipe(given.tier)
    if recipe.importance == "required":
        raise apex.UsageError(
            f"The demo has no importance matrix, which {recipe.name} needs.",
            "use quality, balanced or compact",
        )
    folder = given.folder
    source, target = folder / "demo-f16.gguf", folder / f"demo-{recipe.name}.gguf"
    with ending(f"what was finished is in {folder}"):
        _write_model(source, printer)
        _quantize_and_compare(source, target, given.tier, printer)


def _quantize_and_compare(source: Path, target: Path, tier: str, printer: Printer) -> None:
    import apex
    from apex.demo import compare

    printer.say("quantizing with an edge and a near zone of 1 layer each, since it has 8 layers")
    with showing_progress("quantizing", printer) as advance:
        # At the tier's 5 + 5, eight layers would have no middle.
        result = apex.quantize(
            source,
            target,
            tier=tier,
            edge_layers=1,
            near_layers=1,
            overwrite=True,
            progress=lambda step: advance(step.done_bytes, step.total_bytes, step.tensor),
        )
    print_result(result, printer)
    printer.line()
    print_report(apex.verify(target, source), printer, tensors=False)
    agreement = compare(source, target, _PROMPT)
    printer.line(
        f"llama.cpp runs both: over {agreement.tokens} tokens the most likely next token is "
        f"the same {agreement.same_top:.0%} of the time, mean KL divergence "
        f"{agreement.mean_kl:.4f}"
    )
    for line in _NEXT_STEPS.splitlines():
        printer.line(line)


def _write_model(path: Path, printer: Printer) -> None:
    from apex.demo import write_demo_model

    printer.say(f"making {path}: a hybrid MoE with random weights shaped like real ones")
    try:
        write_demo_model(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}.", "choose another folder"
        ) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
