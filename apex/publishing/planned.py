"""A publication whose model was opened and whose files are planned, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from apex.calibration.automatic import expected_matrix
from apex.calibration.identity import model_digest
from apex.errors import UsageError
from apex.files import ImportanceMatrix
from apex.planning import Plan, plan
from apex.policy import Layout, load_recipe
from apex.publishing.publication import Publication
from apex.quantizing import model_stem, output_name, output_paths
from apex.sources import (
    HuggingFaceModel,
    Model,
    ModelFile,
    is_hub_id,
    open_huggingface,
    open_model,
)

__all__ = ["Planned", "Projector"]


@dataclass(frozen=True)
class Projector:
    """A projector that goes beside the tiers.

    Attributes:
        source: where it comes from.
        plan: of its copy. file: the copy.
        digest: stands for its weights.
    """

    source: Model
    plan: Plan
    file: Path
    digest: str


class Planned:
    """What is asked for, the model, and the plan of every tier.

    Attributes:
        asked: the publication, checked.
        source: the model.
        folder, work: where everything goes; where goes what need not be published.
        name: the model's, as files are called.
        converted: the GGUF file that a model in Hugging Face form becomes; None where it is one
            already, or where nothing has to run it.
        matrix: where its importance matrix goes; None where no tier needs one.
        plans: by tier, with an importance matrix as calibration will give it.
        files: by tier, the file to write; of shards, the name that they share.
        projector: what goes beside the tiers; None without one.
    """

    def __init__(self, asked: Publication) -> None:
        """Raises UsageError, ModelFileError, PlanError for what cannot be made."""
        self.asked = asked.checked()
        self.source = _open(self.asked)
        self.source.require_data()
        self.folder, self.work = asked.folder, asked.folder / "work"
        self.name = _name(self.source)
        is_run = self.asked.needs_importance or self.asked.measures
        is_file = isinstance(self.source, ModelFile)
        self.converted = self.work / self._name_of_converted() if is_run and not is_file else None
        self.matrix = (
            self.folder / f"{self.name}.imatrix.gguf" if self.asked.needs_importance else None
        )
        expected = None if self.matrix is None else expected_matrix(self.source)
        self.plans = self.with_matrix(expected, self.source)
        self.files = {
            tier: self.folder / output_name(made, self.name) for tier, made in self.plans.items()
        }
        self.projector = self._projector()

    def _name_of_converted(self) -> str:
        biggest = max(self.source.tensors, key=lambda tensor: tensor.bytes)
        return f"{self.name}-{biggest.type}.gguf"

    def _projector(self) -> Projector | None:
        path = self.asked.projector
        source: Model
        if self.asked.mmproj:
            source = open_huggingface(self.asked.model, as_projector=True)
            name = f"mmproj-{self.name}"
        elif path is not None:
            source = open_model(path)
            stem = path.name.removesuffix(".gguf")
            name = stem if stem.startswith("mmproj") else f"mmproj-{stem}"
            if not source.is_projector:
                raise UsageError(f"{path} is not a projector (mmproj).", "name an mmproj file")
        else:
            return None
        # Whatever the tier, a projector is copied.
        copy = plan(source, tier=self.asked.tiers[0])
        return Projector(source, copy, self.folder / f"{name}.gguf", _digest(source))

    def with_matrix(self, matrix: ImportanceMatrix | None, source: Model) -> dict[str, Plan]:
        """By tier, its plan. A plain tier goes without importance, as in every joint run."""
        return {
            tier: plan(
                source,
                tier=tier,
                imatrix=matrix if load_recipe(tier).importance == "required" else None,
                imatrix_name=f"{self.name}.imatrix.gguf",
                split_max_size=self.asked.split_max_size,
            )
            for tier in self.asked.tiers
        }

    def original(self) -> Model:
        """The model as a GGUF file where there is one by now, else the source."""
        there = self.converted is not None and self.converted.exists()
        return open_model(self.runnable) if there else self.source

    @property
    def runnable(self) -> Path:
        """The file of the model that runs."""
        return self.asked.model if self.converted is None else self.converted

    @property
    def scratch(self) -> list[Path]:
        """What a step that runs the model needs, and nobody else."""
        return [] if self.converted is None else [self.converted]

    @property
    def base(self) -> Path | None:
        """Where the original's probabilities go; None where nothing is compared with them.

        Its name is the model's: results say what they were compared with by the name of the file.
        """
        if self.asked.evaluate_on is None:
            return None
        return self.work / self.runnable.name.removesuffix(".gguf")

    def shards(self, tier: str) -> tuple[Path, ...]:
        """The files of a tier."""
        return output_paths(self.plans[tier], self.files[tier])

    @property
    def all_shards(self) -> list[Path]:
        """The files of all tiers, and the projector."""
        found = [path for tier in self.asked.tiers for path in self.shards(tier)]
        return found if self.projector is None else [*found, self.projector.file]

    @property
    def bytes(self) -> int:
        """Of all tiers, and the projector."""
        plans = [*self.plans.values(), *([self.projector.plan] if self.projector else [])]
        return sum(file.bytes for made in plans for file in made.files)

    @property
    def hub_name(self) -> str | None:
        """The name of a model of the Hub, without its revision."""
        is_of_hub = isinstance(self.source, HuggingFaceModel) and self.source.is_of_hub
        return str(self.source.path).partition("@")[0] if is_of_hub else None

    @cached_property
    def model(self) -> str:
        """Stands for the model's weights."""
        return _digest(self.source)


def _open(asked: Publication) -> Model:
    if asked.model.is_dir() or is_hub_id(asked.model):
        return open_huggingface(asked.model, mtp="keep" if asked.mtp else "none")
    for is_wanted, option in ((not asked.mtp, "--no-mtp"), (asked.mmproj, "--mmproj")):
        if is_wanted:
            raise UsageError(
                f"{option} is for a model in Hugging Face form, and {asked.model} is a GGUF file.",
                "name the folder or OWNER/NAME",
            )
    return open_model(asked.model)


def _name(source: Model) -> str:
    """The model's, with what it has to say of a head for multi-token prediction."""
    name = model_stem(source.reference.name)
    layout = Layout.from_metadata(source.metadata)
    return f"{name}-MTP" if layout.mtp_layers and "mtp" not in name.lower() else name


def _digest(source: Model) -> str:
    """Stands for a model's weights: what it is where the Hub says so, else a sample of them."""
    if isinstance(source, HuggingFaceModel) and source.is_of_hub:
        return f"{source.path}, {source.reference.digest[:8]}"
    return model_digest(source)
