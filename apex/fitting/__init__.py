"""The best file for a size, a quality or a GPU, from what was measured of the model."""

from __future__ import annotations

from apex.fitting.curve import curve
from apex.fitting.fitter import Fitter, fit
from apex.fitting.result import Fit
from apex.fitting.rivals import Rival
from apex.fitting.wishes import FIT_TIERS, FORMATS, Constraints, Wish

__all__ = ["FIT_TIERS", "FORMATS", "Constraints", "Fit", "Fitter", "Rival", "Wish", "curve", "fit"]
