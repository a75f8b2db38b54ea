"""What quantizing each part of a model costs: measured, kept in a file, bound to the model."""

from __future__ import annotations

from apex.sensitivity.data import Group, ModelIdentity, Probe, Sensitivity, TextIdentity

__all__ = ["Group", "ModelIdentity", "Probe", "Sensitivity", "TextIdentity"]
