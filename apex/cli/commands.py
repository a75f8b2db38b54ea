"""The commands by name, where their functions are, and examples of their use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

from apex.cli.arguments import as_command, help_text
from apex.cli.coercion import Command, Group

__all__ = ["COMMANDS", "GROUPS"]


@dataclass(frozen=True)
class Entry:
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
            epilog=_examples(*self.examples),
        )(command)


COMMANDS = (
    Entry(
        "convert",
        "converting",
        "convert",
        (
            "apex convert folder -o model.gguf",
            "apex convert Qwen/Qwen3-30B-A3B -o model.gguf --outtype q8_0",
            "apex convert folder -o mmproj-model.gguf --mmproj",
        ),
    ),
    Entry(
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
    Entry(
        "plan",
        "planning",
        "plan",
        (
            "apex plan model.gguf",
            "apex plan model.gguf --tier i-quality --imatrix imatrix.gguf --tensors",
            "apex plan model.gguf --tier balanced --export types.txt",
        ),
    ),
    Entry(
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
    Entry(
        "publish",
        "publishing",
        "publish",
        (
            "apex publish model.gguf -o folder --tier all --evaluate-on wiki.test.raw --speed",
            "apex publish --init > publish.toml, then apex publish publish.toml",
            "apex publish publish.toml --dry-run",
        ),
    ),
    Entry(
        "tiers",
        "planning",
        "tiers",
        ("apex tiers", "apex tiers quality > mine.toml, then --tier mine.toml"),
    ),
    Entry(
        "inspect",
        "inspecting",
        "inspect",
        ("apex inspect model.gguf --tensors", "apex inspect imatrix.gguf"),
    ),
    Entry(
        "verify",
        "verifying",
        "verify",
        ("apex verify out.gguf model.gguf --imatrix imatrix.gguf",),
    ),
    Entry(
        "calibration",
        "calibrating",
        "calibration",
        ("apex calibration", "apex calibration --export texts"),
    ),
    Entry(
        "data",
        "data",
        "data",
        ("apex data", "apex data all", "apex data wikitext-2 hellaswag -o folder"),
    ),
    Entry(
        "eval",
        "evaluating",
        "evaluate",
        (
            "apex eval q4.gguf q6.gguf -r f16.gguf -f wiki.test.raw -o results.json",
            "apex eval q4.gguf --hellaswag hellaswag_val_full.txt --tasks 400",
            "apex eval q4.gguf --harness gsm8k,ifeval --harness-chat",
            "apex eval q4.gguf --speed --cache-type-k q8_0 --cache-type-v q8_0",
            "apex eval -r f16.gguf -f wiki.test.raw --write-base f16.kld",
        ),
    ),
    Entry(
        "report",
        "reporting",
        "report",
        ("apex report results.json -o report", "apex report a.json b.json -o report"),
    ),
    Entry("demo", "trying", "demo", ("apex demo", "apex demo somewhere --tier compact")),
)
_IMATRIX = (
    Entry(
        "collect",
        "calibrating",
        "collect",
        (
            "apex imatrix model.gguf",
            "apex imatrix model.gguf -f chat.txt=2 -f code.txt --built-in -o imatrix.gguf",
            "apex imatrix model.gguf -f long.txt --until-coverage 0.99",
        ),
    ),
    Entry("merge", "matrices", "merge", ("apex imatrix merge a.gguf b.dat -o both.gguf",)),
    Entry(
        "show",
        "showing",
        "show",
        (
            "apex imatrix show imatrix.gguf --model model.gguf",
            "apex imatrix show imatrix.gguf --layers",
        ),
    ),
)

_MEASURE = (
    Entry(
        "run",
        "measuring",
        "measure",
        (
            "apex measure model.gguf --imatrix auto",
            "apex measure model.gguf --imatrix imatrix.gguf --time 30m --gpu-layers all",
            "apex measure bf16.gguf --resident q8_0.gguf -f code.txt --built-in",
        ),
    ),
    Entry(
        "show",
        "sensitivities",
        "show",
        (
            "apex measure show model.sensitivity.json",
            "apex measure show model.sensitivity.json --groups --plot heat.png",
        ),
    ),
)


@dataclass(frozen=True)
class EntryGroup:
    """Commands under one name, of which the first needs no name of its own."""

    name: str
    help: str
    examples: tuple[str, ...]
    commands: tuple[Entry, ...]

    def add_to(self, app: typer.Typer, *, is_only_listed: bool = False) -> None:
        """Register the commands; where they are only listed, without their arguments."""
        group = typer.Typer(
            name=self.name, cls=_WithDefault, help=self.help, epilog=_examples(*self.examples)
        )
        for command in self.commands:
            command.add_to(group, is_only_listed=is_only_listed)
        app.add_typer(group)


def _examples(*lines: str) -> str:
    return "\n".join(("Examples:", *(f"  {line}" for line in lines)))


class _WithDefault(Group):
    """The first command is the default: ``apex imatrix M`` is ``apex imatrix collect M``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command where none is."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


GROUPS = (
    EntryGroup(
        "imatrix",
        "Make an importance matrix (apex imatrix MODEL), merge some, or show one.",
        (
            "apex imatrix model.gguf",
            "apex imatrix model.gguf -f chat.txt=2 -f code.txt -o imatrix.gguf "
            "--until-coverage 0.99",
            "apex imatrix merge a.gguf b.dat -o both.gguf",
            "apex imatrix show imatrix.gguf",
        ),
        _IMATRIX,
    ),
    EntryGroup(
        "measure",
        "Measure what quantizing each part of a model costs (apex measure MODEL), or show that.",
        (
            "apex measure model.gguf --imatrix auto --time 30m",
            "apex measure show model.sensitivity.json",
        ),
        _MEASURE,
    ),
)
