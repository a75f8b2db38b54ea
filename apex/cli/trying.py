"""``apex demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex.cli import output
from apex.cli.progress import showing_progress
from apex.cli.quantizing import print_result
from apex.cli.verifying import print_report

__all__ = ["demo"]

_PROMPT = "The river runs through the valley and under the old stone bridge."


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the two files go.")
    ] = Path("apex-demo"),
    tier: Annotated[str, typer.Option(metavar="NAME", help="A tier without imatrix.")] = "quality",
) -> None:
    """Make a small Mixture-of-Experts model, quantize and verify it, and run both.

    Example: apex demo
    """
    import apex
    from apex.demo import compare, write_demo_model

    source, target = folder / "demo-f16.gguf", folder / f"demo-{tier}.gguf"
    output.say(f"making {source}: a hybrid MoE with random weights shaped like real ones")
    write_demo_model(source)
    with showing_progress(f"quantizing to {tier}", quiet=False) as advance:
        # Eight layers have no middle at the tier's 5 + 5; 1 + 1 keeps its proportions.
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
        f"libllama runs both: over {agreement.tokens} tokens the most likely next token is the "
        f"same {agreement.same_top:.0%} of the time, mean KL divergence {agreement.mean_kl:.4f}",
        soft_wrap=True,
    )
    console.print(
        "\nWith a real model (F16, BF16 or F32 GGUF, from convert_hf_to_gguf.py of llama.cpp):\n"
        "  apex plan model.gguf --all-tiers\n"
        "  apex quantize model.gguf model-i-quality.gguf --tier i-quality --imatrix imatrix.gguf\n"
        "  apex verify model-i-quality.gguf model.gguf --imatrix imatrix.gguf",
        soft_wrap=True,
    )
