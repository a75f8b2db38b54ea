"""A type for every tensor, so that the predicted loss is least at a budget of bytes: pure.

::

    frontier = Frontier(items)
    frontier.within(16 * 2**30).choices["blk.0.ffn_down_exps.weight"].type
    # 'IQ4_XS'
"""

from __future__ import annotations

from apex.allocation.choices import Allocation, BudgetError, Choice, Item, LossError
from apex.allocation.frontier import Frontier, Step

__all__ = ["Allocation", "BudgetError", "Choice", "Frontier", "Item", "LossError", "Step"]
