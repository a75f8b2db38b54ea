"""The commands, their examples, and what becomes of their errors."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from apex.cli.coercion import Group
from apex.cli.listing import COMMANDS, IMATRIX, MEASURE, Listed, examples
from apex.cli.output import complain
from apex.errors import ApexError

__all__ = ["run"]

_EXIT_STATUS = (
    "Exit status: 0 done, 1 other error, 2 wrong usage, 3 model file, 4 importance matrix, 5 plan, "
    "6 output, 7 damaged weights, 8 model does not run, 9 GPU, 10 sensitivity file, "
    "70 internal error, 129 hung up, 130 interrupted, 143 terminated."
)

# Typer's UsageError, which it does not export by itself.
_WrongUsage: type[Exception] = typer.BadParameter.__bases__[0]


@dataclass(frozen=True)
class _CommandGroup:
    """Commands under one name, of which the first needs no name of its own."""

    name: str
    help: str
    examples: tuple[str, ...]
    commands: tuple[Listed, ...]

    def add_to(self, app: typer.Typer, *, is_only_listed: bool = False) -> None:
        """Register the commands; where they are only listed, without their arguments."""
        group = typer.Typer(
            name=self.name, cls=_WithDefault, help=self.help, epilog=examples(*self.examples)
        )
        for command in self.commands:
            command.add_to(group, is_only_listed=is_only_listed)
        app.add_typer(group)


class _WithDefault(Group):
    """The first command is the default: ``apex imatrix M`` is ``apex imatrix collect M``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command where none is."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def _make_command(first: str) -> Any:
    """The command line; with one command alone where the first argument names it.

    The others would only take their time to be imported.
    """
    app = typer.Typer(
        name="apex",
        cls=Group,
        epilog=_EXIT_STATUS,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    is_named = any(first == command.name for command in (*COMMANDS, *_GROUPS))
    for command in (*COMMANDS, *_GROUPS):
        if first == command.name or not is_named:
            command.add_to(app, is_only_listed=not is_named)
    return typer.main.get_command(app)


_GROUPS = (
    _CommandGroup(
        "imatrix",
        "Make an importance matrix (apex imatrix MODEL), merge some, or show one.",
        (
            "apex imatrix model.gguf",
            "apex imatrix model.gguf -f chat.txt=2 -f code.txt -o imatrix.gguf "
            "--until-coverage 0.99",
            "apex imatrix merge a.gguf b.dat -o both.gguf",
            "apex imatrix show imatrix.gguf",
        ),
        IMATRIX,
    ),
    _CommandGroup(
        "measure",
        "Measure what quantizing each part of a model costs (apex measure MODEL), or show that.",
        (
            "apex measure model.gguf --imatrix auto --time 30m",
            "apex measure show model.sensitivity.json",
        ),
        MEASURE,
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from apex import _core

        typer.echo(
            f"apex {_core.__version__} (llama.cpp {_core.llama_version}, ggml {_core.ggml_version})"
        )
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False,
        "--version",
        help="Show the versions and exit.",
        callback=_show_version,
        is_eager=True,
    ),
) -> None:
    """Quantize Mixture-of-Experts GGUF models: each tensor gets its own precision, in the bytes
    that llama.cpp would write."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. What stops it from outside passes through."""
    _prepare_streams()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        # Not through Typer's main, which has its own opinion on interrupts and pipes.
        command = _make_command(given[0])
        with command.make_context("apex", given) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except _WrongUsage as error:
        return _wrong_usage(error)
    except ApexError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        _silence_stdout()  # whoever read our output has seen enough
        return 1
    except OSError as error:
        # What a file does is an ApexError by now; this is our own output, or a strange path.
        _silence_stdout()
        _show_traceback()
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}", "check the disk and the paths")
        return 1
    except Exception as error:  # a bug: one sentence, and the way to the rest
        _show_traceback()
        complain(
            f"internal error: {type(error).__name__}: {error}",
            "this is a bug; set APEX_TRACEBACK=1 to see where",
        )
        return 70
    return 0


def _wrong_usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "apex"
    message, hint = error.format_message(), f"{path} --help shows what it takes"
    extra = re.search(r"unexpected extra argument.*\((\S+)", message)
    if extra is not None and path == "apex quantize":  # in the order of llama-quantize
        hint = f"a file type is an option: --type {extra[1].rstrip(')')}"
    complain(message, hint)
    return 2


def _prepare_streams() -> None:
    """Make print work anywhere: without a stdout, and where a character has no encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
            setattr(sys, name, null)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Keep Python from complaining at exit about output that could not be written."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_traceback() -> None:
    if os.environ.get("APEX_TRACEBACK"):
        traceback.print_exc()
