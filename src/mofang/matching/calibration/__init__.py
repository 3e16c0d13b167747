"""Calibration: measured training runs beside what physics predicts, and what follows for runs nobody measured."""

from mofang.matching.calibration.calibration import NORMAL_90, Calibration, calibration, local_calibration

__all__ = ["NORMAL_90", "Calibration", "calibration", "local_calibration"]
