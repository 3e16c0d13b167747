"""The agent's loop: orders, workers, reports, and a look at what is around it."""

from __future__ import annotations

from pathlib import Path

from mofang.clock import Clock
from mofang.domain.launch import LaunchSpec
from mofang.recovery.agent.coordinator import RETURN_S
from mofang.recovery.agent.crew import Crew
from mofang.recovery.agent.history import recall
from mofang.recovery.agent.hub import Hub
from mofang.recovery.agent.messages import StopAsked
from mofang.recovery.agent.outlook import Outlook
from mofang.recovery.agent.uplink import LocalUplink, TcpUplink, Uplink
from mofang.recovery.agent.waiting import Watch
from mofang.recovery.agent.wake import Alarm
from mofang.recovery.kernel_log import KernelLog
from mofang.recovery.replica.start import ReplicaServer
from mofang.recovery.rundir import AttemptDir, read_number
from mofang.recovery.spool import SpoolWriter
from mofang.recovery.telemetry.collector import Collector
from mofang.recovery.telemetry.probe import Place

__all__ = ["Agent"]

_PERIOD_S = 0.05
_BUSY_PERIOD_S = 0.01  # while workers are being ended
_DYING_S = 0.1  # a large process takes a while to be gone
_LIVELY_PERIOD_S = 0.002
_LIVELY_S = 0.2  # after the end of a worker, whose shim will soon have written its exit file
_FENCE_S = 1.0
_STOP_AGAIN_S = 1.0  # a connection may have broken meanwhile
_ISOLATED_S = 20.0  # well below RETURN_S: the workers of a lost node are gone before the attempt is given up


class Agent:
    """The agent of one node.

    Args:
        spec: the attempt.
        node: the index of this node; 0 coordinates.
        clock: the time.
    """

    def __init__(self, spec: LaunchSpec, node: int, clock: Clock) -> None:
        self._spec, self._clock = spec, clock
        self._directory = AttemptDir(Path(spec.attempt_dir))
        past = recall(self._directory, node)
        self._spool = SpoolWriter(
            self._directory.agent_spool(node),
            job_id=spec.job_id,
            attempt=spec.attempt,
            source=f"agent-{node:02d}",
            clock=clock,
        )
        self._kernel = KernelLog(clock)
        self._crew = Crew(spec, node, self._spool, clock, past.exits, kernel=self._kernel)
        self._crew.adopt()
        self._node = node
        self._hub: Hub | None = None
        self._uplink: Uplink
        if node == 0:
            self._uplink = local = LocalUplink()
            self._hub = Hub(spec, local, past.history, self._spool, clock)
            local.send(self._crew.hello())
        else:
            self._uplink = TcpUplink(self._directory, node, self._crew.hello, clock, spec.restart.node_timeout_s)
        here = spec.nodes[node]
        at_home = not here.prefix
        place = Place(accelerator=here.accelerator, devices=here.device_indices, kernel_log=self._kernel)
        self._outlook = Outlook(spec, node, self._spool, clock, Collector(self._directory, node, place, clock))
        self._replicas = ReplicaServer(spec, node, clock)
        self._alarm = Alarm(spec.wake_socket, spec.wake if at_home else (), clock)
        self._fence_at = self._generation_at = 0.0
        self._stop_at = self._lively_until = 0.0
        self._watch = Watch(clock)
        self.stop_asked = False  # set by the signal handler

    def run(self) -> None:
        """Work until the attempt is over, or until this node is given up."""
        while not self._crew.finished and not self._given_up():
            self.step()
            self._pause()
        if self._hub is not None:
            self._hub.close()
        self._outlook.close()
        self._kernel.close()
        self._replicas.stop()
        self._spool.close()

    def _pause(self) -> None:
        """Wait for the next look: until the time is up, or something has happened on this node."""
        crew, now = self._crew, self._clock.monotonic()
        if crew.is_clearing:
            self._watch.await_ends(_DYING_S if crew.is_killing else _BUSY_PERIOD_S, crew.awaited)
            return
        lively = crew.is_busy or now < self._lively_until
        if self._watch.wait(_LIVELY_PERIOD_S if lively else _PERIOD_S, crew.awaited, crew.descriptors()):
            self._lively_until = now + _LIVELY_S

    def step(self) -> None:
        """Do everything once."""
        self._pass_stop_on()
        if not self._crew.is_clearing and not self._crew.is_over:
            self._replicas.tick()
        for report in self._crew.poll():
            self._uplink.send(report)
        if self._hub is not None:
            self._hub.tick()
        for order in self._uplink.receive():
            self._crew.obey(order)
        if self._is_isolated():
            self._crew.kill_all()
        self._outlook.tick(self._crew.generation, self._crew.processes)
        self._alarm.tick()

    def _pass_stop_on(self) -> None:
        now = self._clock.monotonic()
        if now >= self._stop_at and (self.stop_asked or self._directory.stop.exists()):
            self._stop_at = now + _STOP_AGAIN_S
            self._uplink.send(StopAsked(node=self._node))

    def _is_isolated(self) -> bool:
        """Whether this node is cut off for long, or the others went on without it: then its workers are to end."""
        cut_off_s = self._uplink.cut_off_for()
        if cut_off_s < _FENCE_S or self._crew.is_clearing:
            return False
        if cut_off_s > _ISOLATED_S:
            return True
        now = self._clock.monotonic()
        if now < self._generation_at:
            return False
        self._generation_at = now + _FENCE_S
        return (read_number(self._directory.generation) or 0) > self._crew.generation

    def _given_up(self) -> bool:
        """Whether a newer attempt has taken over, or the coordinator is gone for good; nothing is left behind."""
        now = self._clock.monotonic()
        if now < self._fence_at:
            return False
        self._fence_at = now + _FENCE_S
        fenced = (read_number(self._directory.fence) or 0) > self._spec.fence
        cut_off_s = self._uplink.cut_off_for()
        over = cut_off_s > _FENCE_S and self._directory.outcome.exists()
        if not fenced and not over and cut_off_s <= RETURN_S:
            return False
        self._crew.kill_all(last=True)
        while self._crew.is_clearing:
            self._crew.poll()
            self._clock.sleep(_BUSY_PERIOD_S)
        return True
