"""One measurement as the estimate sees it."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool
from mofang.domain.measurement import TrainingMeasurement
from mofang.matching.calibration.quantity import Speed
from mofang.matching.candidates import Candidates
from mofang.matching.work import Work

__all__ = ["Setting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One measurement, translated, and what physics alone predicts. ``assumed`` names what its source leaves open."""

    row: TrainingMeasurement
    work: Work
    pool: Pool
    candidates: Candidates  # one row
    framework: Framework | None
    speed: Speed | None  # None: the source states none
    step_time: float  # predicted seconds
    memory_bytes: float  # predicted, of the fullest device
    assumed: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        """Devices of the measured job."""
        return int(self.candidates.devices[0])

    @property
    def job(self) -> str:
        """What rows share that differ in their layout alone."""
        row = self.row
        what = (row.source_id, row.model, row.accelerator_text, row.num_devices, row.sequence, row.global_batch)
        return "|".join(str(part) for part in (*what, row.precision_text, row.task))

    def tokens_per_s(self, step_time: float) -> float:
        """Return tokens/s a device where one step of ``work`` takes this many seconds."""
        return self.work.global_batch * self.work.sequence / step_time / self.devices
