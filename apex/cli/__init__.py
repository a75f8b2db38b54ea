"""The command line: the only room that prints. Data on stdout, everything else on stderr."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import typer

from apex.cli import inspecting, planning, quantizing, trying, verifying
from apex.cli.output import complain
from apex.errors import ApexError

__all__ = ["main"]

_EPILOG = """
Exit status: 0 done, 1 other error, 2 wrong usage, 3 model file, 4 importance matrix, 5 plan,
6 output, 7 damaged weights, 70 internal error, 130 interrupted, 143 terminated.
"""

app = typer.Typer(
    name="apex",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quantize")(quantizing.quantize)
app.command("plan")(planning.plan)
app.command("tiers")(planning.tiers)
app.command("inspect")(inspecting.inspect)
app.command("verify")(verifying.verify)
app.command("demo")(trying.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        from apex import _core

        typer.echo(
            f"apex {_core.__version__} (llama.cpp {_core.llama_version}, ggml {_core.ggml_version})"
        )
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False,
        "--version",
        help="Show the versions and exit.",
        callback=_show_version,
        is_eager=True,
    ),
) -> None:
    """Quantize Mixture-of-Experts GGUF models: a precision for every tensor, llama.cpp's bytes."""


_INTERRUPTED = 130

# Typer's UsageError, which it does not export by itself.
_WrongUsage: type[Exception] = typer.BadParameter.__bases__[0]


class _Terminated(BaseException):
    """SIGTERM came; a BaseException, so that nothing takes it for an error and all is undone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        command = typer.main.get_command(app)
        given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
        status = command.main(given, prog_name="apex", standalone_mode=False)
        sys.stdout.flush()
    except _WrongUsage as error:
        context = getattr(error, "ctx", None)
        command_path = context.command_path if context else "apex"
        message = error.format_message()  # type: ignore[attr-defined]
        complain(message, f"{command_path} --help lists what there is")
        return 2
    except ApexError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except _Terminated:
        complain("terminated; nothing was left behind", "")
        return 143
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # a bug: one sentence, and the way to the rest
        if os.environ.get("APEX_TRACEBACK"):
            traceback.print_exc()
        complain(
            f"internal error: {type(error).__name__}: {error}",
            "this is a bug; set APEX_TRACEBACK=1 to see where",
        )
        return 70
    if status == _INTERRUPTED:  # which typer may also turn a KeyboardInterrupt into by itself
        complain("interrupted; nothing was left behind", "")
    return status if isinstance(status, int) else 0


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
