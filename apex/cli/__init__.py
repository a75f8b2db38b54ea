"""The command line: the only room that prints. Data on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from apex.cli import (
    calibrating,
    evaluating,
    inspecting,
    planning,
    quantizing,
    reporting,
    trying,
    verifying,
)
from apex.cli.output import complain
from apex.errors import ApexError

__all__ = ["main"]

_EXIT_STATUS = (
    "Exit status: 0 done, 1 other error, 2 wrong usage, 3 model file, 4 importance matrix, 5 plan, "
    "6 output, 7 damaged weights, 8 model does not run, 9 GPU, 70 internal error, "
    "130 interrupted, 143 terminated."
)


def _examples(*lines: str) -> str:
    return "\n".join(("Examples:", *(f"  {line}" for line in lines)))


class CollectByDefault(typer.core.TyperGroup):
    """``apex imatrix MODEL`` is ``apex imatrix collect MODEL``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command where none is."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["collect", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="apex",
    epilog=_EXIT_STATUS,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    epilog=_examples(
        "apex quantize model.gguf out.gguf --tier i-quality --imatrix imatrix.gguf",
        "apex quantize model.gguf out.gguf --tier balanced --tensor-type attn_v=q8_0 --dry-run",
        "apex quantize model.gguf out.gguf --type Q4_K_M --split-max-size 40G",
    )
)(quantizing.quantize)
app.command(
    epilog=_examples(
        "apex plan model.gguf --all-tiers",
        "apex plan model.gguf --tier i-quality --imatrix imatrix.gguf --tensors",
        "apex plan model.gguf --tier balanced --export types.txt",
    )
)(planning.plan)
app.command(
    epilog=_examples("apex tiers", "apex tiers quality > mine.toml, then --tier mine.toml")
)(planning.tiers)
app.command(epilog=_examples("apex inspect model.gguf --tensors", "apex inspect imatrix.gguf"))(
    inspecting.inspect
)
app.command(epilog=_examples("apex verify out.gguf model.gguf --imatrix imatrix.gguf"))(
    verifying.verify
)
imatrix = typer.Typer(
    name="imatrix",
    cls=CollectByDefault,
    help="Make an importance matrix (apex imatrix MODEL), merge some, or show one.",
    epilog=_examples(
        "apex imatrix model.gguf",
        "apex imatrix model.gguf -f chat.txt=2 -f code.txt -o imatrix.gguf --until-coverage 0.99",
        "apex imatrix merge a.gguf b.dat -o both.gguf",
        "apex imatrix show imatrix.gguf",
        "apex imatrix collect --help lists the options of the first form",
    ),
)
imatrix.command(
    epilog=_examples(
        "apex imatrix model.gguf",
        "apex imatrix model.gguf -f chat.txt=2 -f code.txt --built-in -o imatrix.gguf",
        "apex imatrix model.gguf -f long.txt --until-coverage 0.99",
    )
)(calibrating.collect)
imatrix.command(epilog=_examples("apex imatrix merge a.gguf b.dat -o both.gguf"))(calibrating.merge)
imatrix.command(epilog=_examples("apex imatrix show imatrix.gguf --layers"))(calibrating.show)
app.add_typer(imatrix)
app.command(epilog=_examples("apex calibration", "apex calibration --export texts"))(
    calibrating.calibration
)
app.command(
    name="eval",
    epilog=_examples(
        "apex eval q4.gguf q6.gguf -r f16.gguf -f wiki.test.raw -o results.json",
        "apex eval q4.gguf --hellaswag hellaswag_val_full.txt --tasks 400",
        "apex eval q4.gguf --speed --cache-type-k q8_0 --cache-type-v q8_0",
        "apex eval -r f16.gguf -f wiki.test.raw --write-base f16.kld, then --base f16.kld",
    ),
)(evaluating.evaluate)
app.command(
    epilog=_examples("apex report results.json -o report", "apex report a.json b.json -o report")
)(reporting.report)
app.command(epilog=_examples("apex demo", "apex demo somewhere --tier compact"))(trying.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        from apex import _core

        typer.echo(
            f"apex {_core.__version__} (llama.cpp {_core.llama_version}, ggml {_core.ggml_version})"
        )
        raise typer.Exit


@app.callback()
def _root(
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
    _prepare_streams()
    try:
        command = typer.main.get_command(app)
        given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
        status = command.main(given, prog_name="apex", standalone_mode=False)
        sys.stdout.flush()
    except _WrongUsage as error:
        return _wrong_usage(error)
    except ApexError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except _Terminated:
        complain("terminated; nothing was left behind", "")
        return 143
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
    if status == _INTERRUPTED:  # which typer may also make of a KeyboardInterrupt by itself
        complain("interrupted; nothing was left behind", "")
    return status if isinstance(status, int) else 0


def _wrong_usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "apex"
    complain(error.format_message(), f"{path} --help lists what there is")
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


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
