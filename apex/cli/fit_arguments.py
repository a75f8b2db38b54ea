"""What a fit is given: a wish for a size, a quality or a GPU, and what may be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from apex.cli.values import parse_layers
from apex.errors import UsageError
from apex.sizes import parse_bytes

if TYPE_CHECKING:
    from apex.fitting import Constraints, Wish
    from apex.policy import Role

__all__ = ["ChoiceArguments", "FitArguments", "is_fit_tier"]

FIT = "What to fit the types to, by what apex measure measured"
GPU = "What must fit into a GPU's memory beside the weights, with --vram"

# A context that a GPU's owner is likely to use, where none is named.
_CONTEXT = 8192


def is_fit_tier(name: str | None) -> bool:
    """Whether this is the name of a fitted tier; of another one that begins with fit-, an error."""
    if name is None or not name.lower().startswith("fit-") or name.lower().endswith(".toml"):
        return False
    from apex.fitting import FIT_TIERS

    if name.lower() not in FIT_TIERS:
        raise UsageError(f"There is no tier {name}.", f"fitted tiers: {', '.join(FIT_TIERS)}")
    return True


@dataclass(frozen=True, kw_only=True)
class ChoiceArguments:
    """By what the types are chosen, and which."""

    sensitivity: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|auto",
            help="What apex measure wrote; auto, the default: the one beside the model.",
            rich_help_panel=FIT,
        ),
    ] = None
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="k|k,iq4|all",
            help="The types that may be chosen. k leaves out the i-quants, which are slow on some "
            "backends; k,iq4 leaves IQ4_NL and IQ4_XS in.",
            rich_help_panel=FIT,
        ),
    ] = None
    floor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=TYPE",
            help="The smallest type for a role, as in attention=Q6_K; roles as in recipes. "
            "Repeatable.",
            rich_help_panel=FIT,
        ),
    ] = None
    equal_pairs: Annotated[
        bool,
        typer.Option(
            "--equal-pairs",
            help="Gate and up of a layer get the same type, as fused kernels want it.",
            rich_help_panel=FIT,
        ),
    ] = False

    def constraints(self) -> Constraints:
        """These, as ``apex.fit`` takes them. Raises UsageError."""
        from apex.fitting import Constraints

        floors = dict(map(_floor, self.floor or ()))
        return Constraints(self.formats or "all", floors, self.equal_pairs)

    def refuse_without_wish(self, use: str) -> None:
        """Raise UsageError where something was given that only a fit heeds."""
        for item in fields(self):
            if item.name in _ONLY_FITS and getattr(self, item.name) != item.default:
                raise UsageError(
                    f"{_option(item.name)} is for a fit, and nothing is asked for that types could "
                    "be fitted to.",
                    use,
                )


@dataclass(frozen=True, kw_only=True)
class FitArguments(ChoiceArguments):
    """A wish, and what may be chosen for it."""

    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Bytes of the file at most, as in 16GiB, 16G (the same), 16GB (powers of 1000), "
            "or plain bytes.",
            rich_help_panel=FIT,
        ),
    ] = None
    bpw: Annotated[
        float | None,
        typer.Option(
            metavar="BITS", help="Bits per weight at most, as in 4.5.", rich_help_panel=FIT
        ),
    ] = None
    like: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The size of this tier or file type, as in i-compact or Q4_K_M.",
            rich_help_panel=FIT,
        ),
    ] = None
    kl: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="The smallest file whose predicted KL divergence is at most this, as in 0.01.",
            rich_help_panel=FIT,
        ),
    ] = None
    vram: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The best file that runs in this much GPU memory, as in 24GiB; also beside "
            "--size.",
            rich_help_panel=FIT,
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens; 8192 by default.", rich_help_panel=GPU),
    ] = None
    cache_type_k: Annotated[
        str | None,
        typer.Option(
            "--cache-type-k",
            "-ctk",
            metavar="TYPE",
            help="Type of the KV cache's keys, such as q8_0; f16 by default.",
            rich_help_panel=GPU,
        ),
    ] = None
    cache_type_v: Annotated[
        str | None,
        typer.Option(
            "--cache-type-v",
            "-ctv",
            metavar="TYPE",
            help="Type of the KV cache's values.",
            rich_help_panel=GPU,
        ),
    ] = None
    gpu_layers: Annotated[
        str | None,
        typer.Option(
            "--gpu-layers",
            "-ngl",
            metavar="N|all",
            help="Layers that lie on the GPU, counted from the output; all by default.",
            rich_help_panel=GPU,
        ),
    ] = None
    cpu_moe: Annotated[
        bool,
        typer.Option(
            "--cpu-moe", help="Routed experts stay in the host's memory.", rich_help_panel=GPU
        ),
    ] = False

    for_a_gpu: ClassVar[tuple[str, ...]] = (
        *("context", "cache_type_k", "cache_type_v", "gpu_layers", "cpu_moe"),
    )

    def has_wish(self) -> bool:
        """Whether a size, a quality or a GPU is given."""
        return any(getattr(self, name) is not None for name in _WISHES)

    def wish(self) -> Wish:
        """These, as ``apex.fit`` takes them. Raises UsageError."""
        from apex.fitting import Wish
        from apex.inference import RunOptions

        self.refuse_without_vram()
        run = RunOptions(
            context_length=self.context or _CONTEXT,
            cache_type_k=(self.cache_type_k or "f16").upper(),
            cache_type_v=(self.cache_type_v or "f16").upper(),
        )
        return Wish(
            size=None if self.size is None else parse_bytes(self.size, "--size"),
            bits_per_weight=self.bpw,
            like=self.like,
            kl=self.kl,
            vram=None if self.vram is None else parse_bytes(self.vram, "--vram"),
            run=run,
            gpu_layers=parse_layers(self.gpu_layers or "all") if self.vram else -1,
            experts_on_cpu=self.cpu_moe,
        )

    def check_targets(self, tiers: Sequence[str], file_types: Sequence[str], use: str) -> None:
        """Raise UsageError where a wish meets a tier or a file type, or an option lacks a wish."""
        fitted = [name for name in tiers if is_fit_tier(name)]
        if self.has_wish():
            wish = next(_option(name) for name in _WISHES if getattr(self, name) is not None)
            for name, option in ((tiers, "--tier"), (file_types, "--type")):
                if name:
                    raise UsageError(
                        f"{wish} asks for types that are fitted, and {option} {name[0]} for those "
                        "of its own.",
                        "leave out one of the two",
                    )
        elif not fitted:
            self.refuse_without_wish(use)
        if (self.has_wish() or fitted) and getattr(self, "pure", False):
            raise UsageError(
                "--pure gives every tensor the same type, and a fit each its own.",
                "leave out one of the two",
            )
        self.refuse_without_vram()

    def refuse_without_vram(self) -> None:
        """Raise UsageError where something was given that is of no use without --vram."""
        for name in self.for_a_gpu:
            if self.vram is None and getattr(self, name):
                raise UsageError(
                    f"{_option(name)} says what a GPU must hold, and its memory is not given.",
                    "add --vram, as in --vram 24GiB",
                )


_WISHES = ("size", "bpw", "like", "kl", "vram")
_ONLY_FITS = (
    *("sensitivity", "formats", "floor", "equal_pairs"),
    *("no_check", "check_chunks", "check_text", "refine", "resident"),
)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _floor(text: str) -> tuple[Role, str]:
    from apex.policy import Role

    roles = {role.name.lower(): role for role in Role}
    role, equals, type_name = text.partition("=")
    if not equals or not type_name or role.lower() not in roles:
        raise UsageError(
            f"--floor {text} is not of the form ROLE=TYPE.",
            f"as in attention=Q6_K; roles: {', '.join(roles)}",
        )
    return roles[role.lower()], type_name.upper()
