"""Plans whose types are fitted, for the commands that make plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apex.cli.fit_arguments import ChoiceArguments
from apex.errors import SensitivityError

if TYPE_CHECKING:
    from apex import ModelFile
    from apex.fitting import Fitter, Wish
    from apex.planning import PlanOptions
    from apex.sources import Model

__all__ = ["Goal", "fit_tier_goal", "open_fitter", "sensitivity_of"]


@dataclass(frozen=True)
class Goal:
    """What types are fitted to.

    Attributes:
        wish: the size or the quality.
        name: what the plan is called, such as fit-mini.
    """

    wish: Wish
    name: str = "fit"


def fit_tier_goal(name: str) -> Goal:
    """The size of a fitted tier's namesake."""
    from apex.fitting import FIT_TIERS, Wish

    return Goal(Wish(like=FIT_TIERS[name.lower()]), name.lower())


def sensitivity_of(given: ChoiceArguments, source: ModelFile) -> Path:
    """The sensitivity file that is given, or the one beside the model. Raises SensitivityError."""
    from apex.sensitivity import sensitivity_path

    if given.sensitivity not in (None, "auto"):
        return Path(str(given.sensitivity))
    path = sensitivity_path(source)
    if not path.exists():
        raise SensitivityError(
            f"What the parts of {source.path.name} cost is not known: {path} is not there.",
            f"measure it with apex measure {source.path}, or give --sensitivity FILE",
        )
    return path


def open_fitter(given: ChoiceArguments, source: Model, options: PlanOptions) -> Fitter:
    """What fits the model to wishes, with the sensitivity and the constraints that are given."""
    from apex.fitting import Fitter
    from apex.sources import require_file

    constraints, file = given.constraints(), require_file(source)
    return Fitter(file, sensitivity_of(given, file), constraints, **options)
