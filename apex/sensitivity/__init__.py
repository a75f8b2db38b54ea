"""What quantizing each part of a model costs: measured, kept in a file, bound to the model."""

from __future__ import annotations

from apex.sensitivity.binding import check_model, identity_of
from apex.sensitivity.calibration import Calibration, calibration_of
from apex.sensitivity.data import Anchor, Group, ModelIdentity, Probe, Sensitivity, TextIdentity
from apex.sensitivity.groups import DETAILS, KINDS, groups_of, kind_of
from apex.sensitivity.losses import Slope, losses_of, slopes_of
from apex.sensitivity.measuring import measure, sensitivity_path
from apex.sensitivity.options import MeasureCost, MeasureOptions, MeasureProgress, MeasureResult
from apex.sensitivity.serial import load_sensitivity, save_sensitivity

__all__ = [
    "DETAILS",
    "KINDS",
    "Anchor",
    "Calibration",
    "Group",
    "MeasureCost",
    "MeasureOptions",
    "MeasureProgress",
    "MeasureResult",
    "ModelIdentity",
    "Probe",
    "Sensitivity",
    "Slope",
    "TextIdentity",
    "calibration_of",
    "check_model",
    "groups_of",
    "identity_of",
    "kind_of",
    "load_sensitivity",
    "losses_of",
    "measure",
    "save_sensitivity",
    "sensitivity_path",
    "slopes_of",
]
