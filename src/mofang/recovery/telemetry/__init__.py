"""What a node's machine and workers do, sampled every second, kept as a time series, small and bounded."""

from mofang.recovery.telemetry.collector import Collector
from mofang.recovery.telemetry.probe import PROBES, Place, Probe
from mofang.recovery.telemetry.writer import SeriesWriter

__all__ = ["PROBES", "Collector", "Place", "Probe", "SeriesWriter"]
