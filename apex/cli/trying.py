"""``apex demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex.cli import output
from apex.cli.progress import showing_progress
from apex.cli.quantizing import print_result
from apex.cli.verifying import print_report
from apex.errors import OutputError

__all__ = ["demo"]

_PROMPT = "The river runs through the valley and under the old stone bridge."
_NEXT_STEPS = """
With a real model (F16, BF16 or F32 GGUF, from convert_hf_to_gguf.py of llama.cpp):
  apex plan model.gguf --all-tiers
  apex quantize model.gguf model-i-quality.gguf --tier i-quality --imatrix auto
  apex verify model-i-quality.gguf model.gguf --imatrix auto"""


def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Where the two files go, 90 MB; made anew each time."
        ),
    ] = Path("apex-demo"),
    tier: Annotated[
        str, typer.Option(metavar="NAME", help="A tier that needs no importance matrix.")
    ] = "quality",
) -> None:
    """Make a small Mixture-of-Experts model, quantize and verify it, and run both."""
    import apex
    from apex.demo import compare

    recipe = apex.load_recipe(tier)
    if recipe.importance == "required":
        raise apex.UsageError(
            f"The demo has no importance matrix, which {recipe.name} needs.",
            "use quality, balanced or compact",
        )
    source, target = folder / "demo-f16.gguf", folder / f"demo-{recipe.name}.gguf"
    _write_model(source)
    output.say("quantizing with an edge and a near zone of 1 layer each, since it has 8 layers")
    with showing_progress(f"quantizing to {recipe.name}", quiet=False) as advance:
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
    print_result(result)
    console = output.stdout()
    console.print()
    print_report(apex.verify(target, source), tensors=False)
    agreement = compare(source, target, _PROMPT)
    console.print(
        f"llama.cpp runs both: over {agreement.tokens} tokens the most likely next token is "
        f"the same {agreement.same_top:.0%} of the time, mean KL divergence "
        f"{agreement.mean_kl:.4f}"
    )
    console.print(_NEXT_STEPS, soft_wrap=True)


def _write_model(path: Path) -> None:
    from apex.demo import write_demo_model

    output.say(f"making {path}: a hybrid MoE with random weights shaped like real ones")
    try:
        write_demo_model(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}.", "choose another folder"
        ) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
