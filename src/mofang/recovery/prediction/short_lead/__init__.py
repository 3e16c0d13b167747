"""Faults a minute ahead, from live telemetry: features, a calibrated model, and the traces that it is learned from."""

from mofang.recovery.prediction.short_lead.features import FEATURES, Signs, signs
from mofang.recovery.prediction.short_lead.model import ShortLeadModel, chosen_short_lead, packaged_short_lead

__all__ = ["FEATURES", "ShortLeadModel", "Signs", "chosen_short_lead", "packaged_short_lead", "signs"]
