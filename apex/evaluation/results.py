"""What is known of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apex.evaluation.harness import HarnessScore
from apex.evaluation.speed import Speed
from apex.evaluation.statistics import Divergence, Measured, Perplexity
from apex.evaluation.tasks import TaskResult
from apex.policy import Layout, layer_of, role_of
from apex.sources import ModelFile
from apex.verification import VerifyReport

__all__ = ["ModelResult"]


@dataclass
class ModelResult:
    """What is known of one model.

    Attributes:
        file: the model.
        is_reference: whether the others are compared with it.
        sha256: of each of its files.
        perplexity, divergence, mtp_agreement, mtp_perplexity, tasks, harness, speed, errors: as
            measured; None or empty where not.
    """

    file: ModelFile
    is_reference: bool
    sha256: dict[str, str] = field(default_factory=dict)
    perplexity: Perplexity | None = None
    divergence: Divergence | None = None
    mtp_agreement: Measured | None = None
    mtp_perplexity: Perplexity | None = None
    tasks: list[TaskResult] = field(default_factory=list)
    harness: list[HarnessScore] = field(default_factory=list)
    speed: Speed | None = None
    errors: VerifyReport | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.file.path.name.removesuffix(".gguf")

    @property
    def file_bytes(self) -> int:
        """Size of all its files."""
        return sum(part.stat().st_size for part in self.file.files)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def data(value: Any) -> Any:
            return None if value is None else value.to_dict()

        return {
            "name": self.name,
            "path": str(self.file.path),
            "is_reference": self.is_reference,
            "bytes": self.file_bytes,
            "bits_per_weight": 8 * self.file.bytes / max(self.file.weights, 1),
            "architecture": self.file.architecture,
            "sha256": self.sha256,
            "perplexity": data(self.perplexity),
            "divergence": data(self.divergence),
            "mtp_agreement": data(self.mtp_agreement),
            "mtp_perplexity": data(self.mtp_perplexity),
            "tasks": [task.to_dict() for task in self.tasks],
            "harness": [score.to_dict() for score in self.harness],
            "speed": data(self.speed),
            "tensors": self._tensors(),
        }

    def _tensors(self) -> list[dict[str, Any]]:
        """Every matrix with its place in the model, its type and, where known, its error."""
        layout = Layout.from_metadata(self.file.metadata)
        errors = {} if self.errors is None else {e.name: e.rmse for e in self.errors.tensors}
        return [
            {
                "name": tensor.name,
                "layer": layer_of(tensor.name),
                "role": role_of(tensor.name, layout).value,
                "type": tensor.type,
                "bits_per_weight": 8 * tensor.bytes / tensor.weights,
                "rmse": errors.get(tensor.name),
            }
            for tensor in self.file.tensors
            if len(tensor.shape) > 1
        ]
