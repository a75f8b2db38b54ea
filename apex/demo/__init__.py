"""The demo: a small model to try everything on, and a comparison of two files by running them."""

from __future__ import annotations

from apex.demo.comparison import Agreement, compare
from apex.demo.model import write_demo_model

__all__ = ["Agreement", "compare", "write_demo_model"]
