"""Which nodes and devices are going to fail: risks over days from the history of faults, and how good they are."""

from mofang.recovery.prediction.history import FaultHistory, joined
from mofang.recovery.prediction.logistic import RiskModel, fit_risk
from mofang.recovery.prediction.logs import read_fault_logs
from mofang.recovery.prediction.samples import Samples, sampled
from mofang.recovery.prediction.validation import FaultScore, validate_faults

__all__ = [
    "FaultHistory",
    "FaultScore",
    "RiskModel",
    "Samples",
    "fit_risk",
    "joined",
    "read_fault_logs",
    "sampled",
    "validate_faults",
]
