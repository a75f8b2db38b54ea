"""The commands: where their functions are, and examples of their use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import typer

from apex.cli.arguments import as_command, help_text
from apex.cli.coercion import Command

__all__ = ["COMMANDS", "IMATRIX", "MEASURE", "Listed", "examples"]


@dataclass(frozen=True)
class Listed:
    """Where a command's function is, and examples of its use."""

    name: str
    module: str
    function: str
    examples: tuple[str, ...]

    def add_to(self, app: typer.Typer, *, is_only_listed: bool = False) -> None:
        """Register the function; where it is only listed, without its arguments."""
        function = getattr(import_module(f"apex.cli.{self.module}"), self.function)
        command = (lambda: None) if is_only_listed else as_command(function)
        app.command(
            self.name,
            cls=Command,
            help=help_text(function.__doc__ or ""),
            epilog=examples(*self.examples),
        )(command)


def examples(*lines: str) -> str:
    """What stands below the help of a command."""
    return "\n".join(("Examples:", *(f"  {line}" for line in lines)))


COMMANDS = (
    Listed(
        "convert",
        "converting",
        "convert",
        (
            "apex convert folder -o model.gguf",
            "apex convert Qwen/Qwen3-30B-A3B -o model.gguf --outtype q8_0",
            "apex convert folder -o mmproj-model.gguf --mmproj",
        ),
    ),
    Listed(
        "quantize",
        "quantizing",
        "quantize",
        (
            "apex quantize model.gguf out.gguf --tier i-quality --imatrix imatrix.gguf",
            "apex quantize model.gguf -o folder --tier i-quality --tier mini --imatrix auto",
            "apex quantize model.gguf out.gguf --tier balanced --tensor-type attn_v=q8_0",
            "apex quantize model.gguf out.gguf --type Q4_K_M --split-max-size 40G",
            "apex quantize model.gguf out.gguf --size 16GiB --imatrix auto",
        ),
    ),
    Listed(
        "plan",
        "planning",
        "plan",
        (
            "apex plan model.gguf",
            "apex plan model.gguf --tier i-quality --imatrix imatrix.gguf --tensors",
            "apex plan model.gguf --tier balanced --export types.txt",
        ),
    ),
    Listed(
        "fit",
        "fitting",
        "fit",
        (
            "apex fit model.gguf --size 16GiB --imatrix auto",
            "apex fit model.gguf --tier fit-mini --imatrix imatrix.gguf --export types.txt",
            "apex fit model.gguf --vram 24GiB --context 32768 --cpu-moe --imatrix auto",
            "apex fit model.gguf --curve -o frontier --imatrix auto",
        ),
    ),
    Listed(
        "tiers",
        "planning",
        "tiers",
        ("apex tiers", "apex tiers quality > mine.toml, then --tier mine.toml"),
    ),
    Listed(
        "inspect",
        "inspecting",
        "inspect",
        ("apex inspect model.gguf --tensors", "apex inspect imatrix.gguf"),
    ),
    Listed(
        "verify",
        "verifying",
        "verify",
        ("apex verify out.gguf model.gguf --imatrix imatrix.gguf",),
    ),
    Listed(
        "calibration",
        "calibrating",
        "calibration",
        ("apex calibration", "apex calibration --export texts"),
    ),
    Listed(
        "eval",
        "evaluating",
        "evaluate",
        (
            "apex eval q4.gguf q6.gguf -r f16.gguf -f wiki.test.raw -o results.json",
            "apex eval q4.gguf --hellaswag hellaswag_val_full.txt --tasks 400",
            "apex eval q4.gguf --speed --cache-type-k q8_0 --cache-type-v q8_0",
            "apex eval -r f16.gguf -f wiki.test.raw --write-base f16.kld",
        ),
    ),
    Listed(
        "report",
        "reporting",
        "report",
        ("apex report results.json -o report", "apex report a.json b.json -o report"),
    ),
    Listed("demo", "trying", "demo", ("apex demo", "apex demo somewhere --tier compact")),
)
IMATRIX = (
    Listed(
        "collect",
        "calibrating",
        "collect",
        (
            "apex imatrix model.gguf",
            "apex imatrix model.gguf -f chat.txt=2 -f code.txt --built-in -o imatrix.gguf",
            "apex imatrix model.gguf -f long.txt --until-coverage 0.99",
        ),
    ),
    Listed("merge", "matrices", "merge", ("apex imatrix merge a.gguf b.dat -o both.gguf",)),
    Listed(
        "show",
        "showing",
        "show",
        (
            "apex imatrix show imatrix.gguf --model model.gguf",
            "apex imatrix show imatrix.gguf --layers",
        ),
    ),
)

MEASURE = (
    Listed(
        "run",
        "measuring",
        "measure",
        (
            "apex measure model.gguf --imatrix auto",
            "apex measure model.gguf --imatrix imatrix.gguf --time 30m --gpu-layers all",
            "apex measure bf16.gguf --resident q8_0.gguf -f code.txt --built-in",
        ),
    ),
    Listed(
        "show",
        "sensitivities",
        "show",
        (
            "apex measure show model.sensitivity.json",
            "apex measure show model.sensitivity.json --groups --plot heat.png",
        ),
    ),
)
