"""How plans are cut into jobs: whole rows of one tensor, and everything that they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apex.planning import Plan, PlannedTensor
from apex.sources import Tensor
from apex.types import IGNORE_IMPORTANCE

__all__ = ["Job", "Target", "Work", "job_row_bytes", "split", "work_of"]


@dataclass(frozen=True)
class Target:
    """One type, importance and rounding of a tensor's rows, and every output that wants it.

    Attributes:
        tensor: the planned tensor of the first of these outputs; for the others, type, importance
            and rounding are the same.
        plan: the number of that output's plan.
        outputs: (number of the plan, its planned tensor), each of which gets the bytes.
    """

    tensor: PlannedTensor
    plan: int
    outputs: tuple[tuple[int, PlannedTensor], ...]

    @property
    def type(self) -> str:
        """The ggml type."""
        return self.tensor.type

    @property
    def rounding(self) -> str:
        """How its weights become levels."""
        return self.tensor.rounding

    @property
    def has_importance(self) -> bool:
        """Whether it is quantized with importance."""
        return self.tensor.importance is not None


@dataclass(frozen=True)
class Work:
    """A tensor and all its targets, the same work only once."""

    tensor: Tensor
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Job:
    """Whole rows of one tensor that go through the stream together.

    They are either ``experts`` whole experts from ``expert`` on, or ``rows`` rows of one.

    Attributes:
        first_row: counted over all experts.
    """

    work: Work
    expert: int
    experts: int
    rows: int
    first_row: int

    @property
    def tensor(self) -> Tensor:
        """The tensor in the source."""
        return self.work.tensor

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the rows become."""
        return self.work.targets

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, rows, columns)."""
        return (self.experts, self.rows, self.tensor.columns)

    @property
    def source_bytes(self) -> int:
        """Size of the rows in the source."""
        return self.experts * self.rows * self.tensor.row_bytes

    def target_bytes(self, target: Target) -> int:
        """Size of the rows in a target; 0 where they are written as they are."""
        if target.tensor.is_copied:
            return 0
        return self.experts * self.rows * target.tensor.row_bytes

    @property
    def all_target_bytes(self) -> int:
        """Size of the rows in all targets together."""
        return sum(map(self.target_bytes, self.targets))


def work_of(plans: Sequence[Plan]) -> list[Work]:
    """The tensors of plans of one source, in the order of the first plan's output.

    Where several plans want the same type, importance and rounding of a tensor, that is one target.
    """
    by_name = [{tensor.name: tensor for tensor in plan.tensors} for plan in plans]
    result = []
    for tensor in plans[0].tensors:
        groups: dict[object, list[tuple[int, PlannedTensor]]] = {}
        for number, (plan, tensors) in enumerate(zip(plans, by_name, strict=True)):
            planned = tensors[tensor.name]
            groups.setdefault(_key(plan, planned), []).append((number, planned))
        targets = tuple(
            Target(outputs[0][1], outputs[0][0], tuple(outputs)) for outputs in groups.values()
        )
        result.append(Work(tensor.source, targets))
    return result


def _key(plan: Plan, tensor: PlannedTensor) -> object:
    """Equal where the bytes will be."""
    if tensor.importance is None or plan.imatrix is None or tensor.type in IGNORE_IMPORTANCE:
        return tensor.type
    return tensor.type, tensor.importance, plan.imatrix, tensor.rounding, plan.second_moments


def job_row_bytes(work: Work) -> int:
    """Source and target bytes of one row of a tensor."""
    targets = (target.tensor for target in work.targets)
    return work.tensor.row_bytes + sum(
        tensor.row_bytes for tensor in targets if not tensor.is_copied
    )


def split(tensors: Sequence[Work], limit: int) -> list[Job]:
    """All jobs in order, of at most ``limit`` source and target bytes each, or of one row."""
    return [job for work in tensors for job in _jobs(work, limit)]


def _jobs(work: Work, limit: int) -> Iterator[Job]:
    """Some experts each, or some rows of one."""
    matrices = work.tensor.experts
    rows = work.tensor.rows // matrices
    fitting = max(1, limit // job_row_bytes(work))
    if fitting >= rows:
        # An expert's objective is made once, for all that its rows become.
        compensated = sum(target.rounding == "compensated" for target in work.targets)
        step = 1 if compensated > 1 else fitting // rows
        for expert in range(0, matrices, step):
            yield Job(work, expert, min(step, matrices - expert), rows, expert * rows)
        return
    for expert in range(matrices):
        for row in range(0, rows, fitting):
            yield Job(work, expert, 1, min(fitting, rows - row), expert * rows + row)
