"""What faults cost a long training run under different practices, simulated: ETTR and GPU-hours."""

from mofang.recovery.simulation.faults import FaultModel, packaged_faults
from mofang.recovery.simulation.formula import expected_waste, snapshot_interval
from mofang.recovery.simulation.practices import Practice, packaged_practices
from mofang.recovery.simulation.run import Outcome, simulate
from mofang.recovery.simulation.study import Study, study

__all__ = [
    "FaultModel",
    "Outcome",
    "Practice",
    "Study",
    "expected_waste",
    "packaged_faults",
    "packaged_practices",
    "simulate",
    "snapshot_interval",
    "study",
]
