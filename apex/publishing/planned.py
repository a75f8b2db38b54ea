"""A publication whose model was opened and whose files are planned, before anything is written."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from apex.calibration.automatic import expected_matrix
from apex.calibration.identity import model_digest
from apex.errors import UsageError
from apex.files import ImportanceMatrix
from apex.planning import Plan, plan
from apex.policy import load_recipe
from apex.publishing.publication import Publication
from apex.quantizing import output_name, output_paths
from apex.sources import is_projector, open_model

__all__ = ["Planned"]


class Planned:
    """What is asked for, the model, and the plan of every tier.

    Attributes:
        asked: the publication, checked.
        source: the model.
        folder, work: where everything goes; where goes what need not be published.
        name: the model's, as files are called.
        matrix: where its importance matrix goes; None where no tier needs one.
        plans: by tier, with an importance matrix as calibration will give it.
        projector: the plan of the projector and its file; None without one.
        files: by tier, the file to write; of shards, the name that they share.
    """

    def __init__(self, asked: Publication) -> None:
        """Raises UsageError, ModelFileError, PlanError for what cannot be made."""
        self.asked = asked.checked()
        self.source = open_model(asked.model)
        self.source.require_data()
        self.folder, self.work = asked.folder, asked.folder / "work"
        self.name = asked.model.name.removesuffix(".gguf")
        self.matrix = (
            self.folder / f"{self.name}.imatrix.gguf" if self.asked.needs_importance else None
        )
        expected = None if self.matrix is None else expected_matrix(self.source)
        self.plans = self.with_matrix(expected)
        self.files = {tier: self.folder / output_name(made) for tier, made in self.plans.items()}

        self.projector = self._projector()

    def _projector(self) -> tuple[Plan, Path] | None:
        path = self.asked.projector
        if path is None:
            return None
        source = open_model(path)
        if not is_projector(source.metadata):
            raise UsageError(f"{path} is not a projector (mmproj).", "name an mmproj file")
        stem = path.name.removesuffix(".gguf")
        name = stem if stem.startswith("mmproj") else f"mmproj-{stem}"
        # Whatever the tier, a projector is copied.
        return plan(source, tier=self.asked.tiers[0]), self.folder / f"{name}.gguf"

    def with_matrix(self, matrix: ImportanceMatrix | None) -> dict[str, Plan]:
        """By tier, its plan. A plain tier goes without importance, as in every joint run."""
        return {
            tier: plan(
                self.source,
                tier=tier,
                imatrix=matrix if load_recipe(tier).importance == "required" else None,
                imatrix_name=f"{self.name}.imatrix.gguf",
                split_max_size=self.asked.split_max_size,
            )
            for tier in self.asked.tiers
        }

    def shards(self, tier: str) -> tuple[Path, ...]:
        """The files of a tier."""
        return output_paths(self.plans[tier], self.files[tier])

    @property
    def all_shards(self) -> list[Path]:
        """The files of all tiers, and the projector."""
        found = [path for tier in self.asked.tiers for path in self.shards(tier)]
        return found if self.projector is None else [*found, self.projector[1]]

    @property
    def bytes(self) -> int:
        """Of all tiers."""
        return sum(file.bytes for made in self.plans.values() for file in made.files)

    @cached_property
    def model(self) -> str:
        """Stands for the model's weights."""
        return model_digest(self.source)
