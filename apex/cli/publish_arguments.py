"""What ``apex publish`` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli.arguments import (
    FILES,
    TIER,
    JsonArgument,
    OverwriteArgument,
    QuietArgument,
    ThreadsArgument,
)
from apex.errors import UsageError
from apex.sizes import parse_size

if TYPE_CHECKING:
    from apex.publishing import Publication

__all__ = ["PublishArguments"]

_JUDGE, _CARD, _STAGES = "How files are judged", "What the card says", "Which stages"


@dataclass(frozen=True, kw_only=True)
class PublishArguments(QuietArgument, JsonArgument, OverwriteArgument, ThreadsArgument):
    """What ``apex publish`` is given."""

    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL",
            help="A model of the Hub (OWNER/NAME), a Hugging Face folder, a GGUF file, or a TOML "
            "file that names one.",
        ),
    ] = None
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where it all goes.", rich_help_panel=FILES
        ),
    ] = None
    init: Annotated[
        bool,
        typer.Option("--init", help="Print a commented TOML file to start from, and stop."),
    ] = False
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tier, or all; may be repeated.", rich_help_panel=TIER),
    ] = None
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A calibration text; may be repeated.",
            rich_help_panel=TIER,
        ),
    ] = None
    no_built_in: Annotated[
        bool,
        typer.Option("--no-built-in", help="Leave out the built-in texts.", rich_help_panel=TIER),
    ] = False
    chunks: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Calibrate on N chunks at most.", rich_help_panel=TIER
        ),
    ] = None
    split_max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Write larger files as shards, as in 45G.", rich_help_panel=FILES
        ),
    ] = None
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="For quantizing, as in 8G.", rich_help_panel=FILES),
    ] = None
    evaluate_on: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text for perplexity and KL divergence, in no calibration.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    evaluate_chunks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Judge by N chunks at most.", rich_help_panel=_JUDGE),
    ] = None
    hellaswag: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks.", rich_help_panel=_JUDGE)
    ] = None
    winogrande: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks.", rich_help_panel=_JUDGE)
    ] = None
    multiple_choice: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks.", rich_help_panel=_JUDGE)
    ] = None
    harness: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="A task of lm-evaluation-harness, such as gsm8k; may be repeated.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure speed.", rich_help_panel=_JUDGE)
    ] = False
    caches: Annotated[
        bool,
        typer.Option("--caches", help="Compare smaller KV caches too.", rich_help_panel=_JUDGE),
    ] = False
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Somebody else's file, or OWNER/NAME/FILE.gguf of the Hub, to show beside ours; "
            "may be repeated.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    projector: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An mmproj file, copied beside the tiers.", rich_help_panel=FILES
        ),
    ] = None
    mmproj: Annotated[
        bool,
        typer.Option(
            "--mmproj",
            help="Put the model's own projector beside the tiers (Hugging Face models).",
            rich_help_panel=FILES,
        ),
    ] = False
    no_mtp: Annotated[
        bool,
        typer.Option(
            "--no-mtp",
            help="Leave out the multi-token-prediction head (Hugging Face models); files that "
            "have one are named -MTP.",
            rich_help_panel=FILES,
        ),
    ] = False
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep the converted model and its probabilities, for more tiers later.",
            rich_help_panel=FILES,
        ),
    ] = False
    base_model: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="The original on the Hub.", rich_help_panel=_CARD),
    ] = None
    repo: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Where the files will be.", rich_help_panel=_CARD),
    ] = None
    upload: Annotated[
        bool,
        typer.Option("--upload", help="Upload all to --repo, at last.", rich_help_panel=_CARD),
    ] = False
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="A repository that is made is public.", rich_help_panel=_CARD
        ),
    ] = False
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Upload without asking.", rich_help_panel=_CARD)
    ] = False
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Make this stage and all after it again.",
            rich_help_panel=_STAGES,
        ),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Only this stage.", rich_help_panel=_STAGES),
    ] = None
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Leave out this stage.", rich_help_panel=_STAGES),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show stages, sizes and disk, and stop.", rich_help_panel=_STAGES
        ),
    ] = False

    def publication(self) -> Publication:
        """What is asked for. Raises UsageError."""
        from apex.publishing import Publication, load_publication

        if self.model is None:
            raise UsageError("The model is missing.", "apex publish MODEL -o FOLDER")
        given = self._given()
        if self.model.suffix == ".toml":
            found = load_publication(self.model, given)
        elif self.folder is None:
            raise UsageError("The folder is missing.", "apex publish MODEL -o FOLDER")
        else:
            found = Publication(**{"model": self.model, **given})
        return self._with_card(found)

    def _given(self) -> dict[str, Any]:
        """What the command line says, by the names of a Publication."""
        values: dict[str, Any] = {
            "folder": self.folder,
            "tiers": tuple(self.tier) if self.tier else None,
            "texts": tuple(self.file) if self.file else None,
            "built_in": False if self.no_built_in else None,
            "chunks": self.chunks,
            "evaluate_on": self.evaluate_on,
            "evaluate_chunks": self.evaluate_chunks,
            "hellaswag": self.hellaswag,
            "winogrande": self.winogrande,
            "multiple_choice": self.multiple_choice,
            "harness": tuple(self.harness) if self.harness else None,
            "speed": True if self.speed else None,
            "upload": True if self.upload else None,
            "public": True if self.public else None,
            "caches": True if self.caches else None,
            "baselines": tuple(self.baseline) if self.baseline else None,
            "projector": self.projector,
            "mmproj": True if self.mmproj else None,
            "mtp": False if self.no_mtp else None,
            "split_max_size": _bytes(self.split_max_size, "--split-max-size", 1000),
            "max_memory": _bytes(self.max_memory, "--max-memory"),
            "threads": self.threads or None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def _with_card(self, found: Publication) -> Publication:
        from dataclasses import replace

        card = found.card
        return replace(
            found,
            card=replace(
                card,
                base_model=self.base_model or card.base_model,
                repository=self.repo or card.repository,
            ),
        )


def _bytes(text: str | None, option: str, unit: int = 1024) -> int | None:
    return None if text is None else parse_size(text, option, unit)
