"""What an allocation chooses from, what it chose, and why it could not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from apex.errors import PlanError

__all__ = ["Allocation", "BudgetError", "Choice", "Item", "LossError"]


@dataclass(frozen=True)
class Choice:
    """One type that an item can become.

    Attributes:
        type: its name, such as Q4_K.
        bytes: what the item takes in the file as this type, padding included.
        loss: predicted KL divergence in nats that this costs; finite, at least 0.
    """

    type: str
    bytes: int
    loss: float

    def __post_init__(self) -> None:
        if self.bytes < 0 or not 0 <= self.loss < math.inf:
            raise ValueError(f"{self} needs bytes and a finite loss of at least 0")


@dataclass(frozen=True)
class Item:
    """A tensor, or tensors that must have equal types, and what it can become.

    Attributes:
        name: unique among the items.
        choices: at least one, in any order.
    """

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError(f"{self.name} has no choices")


@dataclass(frozen=True)
class Allocation:
    """A choice for every item.

    Attributes:
        choices: by item name, in the order of the items.
        bytes: their sum.
        loss: the sum of their losses, as math.fsum gives it.
        bound: no allocation of at most the budget can predict less than this.
        price: loss that one more byte saves at this size; 0 where nothing more can be saved.
    """

    choices: Mapping[str, Choice]
    bytes: int
    loss: float
    bound: float
    price: float


class BudgetError(PlanError):
    """No allocation is within the budget.

    Attributes:
        smallest: bytes of the smallest allocation.
    """

    def __init__(self, budget: int, smallest: int) -> None:
        super().__init__(
            f"The smallest choice of types takes {smallest:,} bytes, and at most {budget:,} "
            "are asked for.",
            "ask for a larger size, or allow smaller types",
        )
        self.smallest = smallest


class LossError(PlanError):
    """No allocation predicts as small a loss as this.

    Attributes:
        least: the least loss that an allocation predicts, in nats.
    """

    def __init__(self, loss: float, least: float) -> None:
        super().__init__(
            f"The least predicted KL divergence of any choice of types is {least:.3g}, and at "
            f"most {loss:.3g} is asked for.",
            "ask for a larger KL divergence, or allow larger types",
        )
        self.least = least
