"""The closed list of causes: recognised in real texts of logs and kernel, told apart from their consequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from mofang.clock import ManualClock
from mofang.domain.reasons import Reason
from mofang.recovery.agent.causes import Action, first_cause, policy_of, recognise
from mofang.recovery.agent.evidence import describe
from mofang.recovery.agent.member import Member, Surroundings, explain_end, explain_log
from mofang.recovery.agent.messages import Problem
from mofang.recovery.agent.shims import ExitFile
from mofang.recovery.kernel_log import Fact, KernelLog, read_line
from mofang.recovery.rundir import AttemptDir

# Lines as torch, gloo, NCCL, CUDA, torch_npu and the C library print them.
LINES = {
    Reason.DEVICE_MEMORY: (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
        "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 96.00 MiB.",
        "RuntimeError: NPU out of memory. Tried to allocate 3.47 GiB (NPU 0; 60.97 GiB total capacity)",
        "RuntimeError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    Reason.DEVICE_ERROR: (
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "torch.AcceleratorError: CUDA error: unspecified launch failure",
        "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "RuntimeError: No CUDA GPUs are available",
    ),
    Reason.COLLECTIVE: (
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:29",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Read error [10.0.0.2]:1: Conn",
        "RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
        "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1331",
        "  what():  [PG ID 0 PG GUID 0(default_pg) Rank 3] Process group watchdog thread terminated with exception: "
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=BROADCAST)",
        "JobFailedError: rank 0 is gone",
        "JobFailedError: rank 0 failed: /data/x does not exist",
        "torch.distributed.DistNetworkError: The client socket has failed to connect to any network address",
    ),
    Reason.DISK_FULL: ("OSError: [Errno 28] No space left on device: '/data/x'",),
    Reason.DISK_ERROR: (
        "OSError: [Errno 5] Input/output error: '/data/tokens.bin'",
        "OSError: [Errno 30] Read-only file system: '/ckpt/step-10'",
    ),
    Reason.MEMORY: (
        "MemoryError",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
        "RuntimeError: DataLoader worker (pid 8321) is killed by signal: Killed. ",
        "OSError: [Errno 12] Cannot allocate memory",
    ),
    Reason.WORKER_FAILED: (
        "RuntimeError: CUDA error: device-side assert triggered",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "ValueError: token 3 is missing",
        "KeyError: 'input_ids'",
    ),
    Reason.NOT_FINITE: ("NotFiniteError: the loss of step 12 is nan",),
    Reason.CORRUPTION: ("SilentCorruptionError: rank 1 does not hold the weights that the others hold",),
    Reason.CHECKPOINT: ("CheckpointError: none of 3 checkpoints in /x can be used",),
}
CASES = [(reason, line) for reason, lines in LINES.items() for line in lines]


@pytest.mark.parametrize(("reason", "line"), CASES)
def test_every_cause_is_recognised_in_its_own_words(reason, line):
    log = ["step 1", "Traceback (most recent call last):", '  File "train.py", line 3, in <module>', f"[rank1]: {line}"]
    found = recognise(log)
    assert found is not None
    assert (found.reason, found.certain) == (reason, True)
    assert found.words == line.strip()


def test_an_error_that_was_raised_while_another_was_handled_is_its_consequence():
    gloo = LINES[Reason.COLLECTIVE][0]
    log = [
        "Traceback (most recent call last):",
        "ValueError: bad batch",
        "During handling of the above exception, another exception occurred:",
        "Traceback (most recent call last):",
        gloo,
    ]
    assert recognise(log).words == "ValueError: bad batch"
    apart = [log[0], log[1], "step 7 done", *log[3:]]
    assert recognise(apart).reason is Reason.COLLECTIVE


def test_an_error_that_the_program_got_over_is_not_certain():
    log = ["Traceback (most recent call last):", "KeyError: 'x'", *(f"step {step}" for step in range(20))]
    assert not recognise(log).certain
    assert recognise(["step 1", "done"]) is None


def _problem(reason: Reason, time: float, rank: int = 0) -> Problem:
    return Problem(node=0, generation=1, reason=str(reason), message=f"rank {rank}", signature="s", time=time)


def test_the_first_cause_wins_by_class_and_then_by_time():
    gloo, oom, late = (
        _problem(Reason.COLLECTIVE, 1.0),
        _problem(Reason.MEMORY, 1.4),
        _problem(Reason.WORKER_FAILED, 2.0),
    )
    assert first_cause([gloo, late, oom]) is oom
    assert first_cause([_problem(Reason.COLLECTIVE, 3.0), gloo]) is gloo


def test_every_reason_has_a_policy_and_only_what_cannot_get_better_stops():
    stops = {reason for reason in Reason if policy_of(reason).action is Action.STOP}
    assert stops == {Reason.NOT_FINITE, Reason.COMMAND_NOT_FOUND, Reason.LAUNCH}
    elsewhere = {reason for reason in Reason if policy_of(reason).action is Action.ELSEWHERE}
    assert {Reason.DEVICE_ERROR, Reason.NODE_LOST, Reason.STRAGGLER, Reason.CORRUPTION} <= elsewhere
    assert {reason for reason in Reason if policy_of(reason).symptom} == {Reason.COLLECTIVE}


KERNEL = (
    ("3,1,1,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.", Reason.DEVICE_ERROR, True),
    ("3,1,1,-;NVRM: Xid (PCI:0000:3b:00): 94, pid=1234, Contained: SM", Reason.DEVICE_ERROR, False),
    ("3,1,1,-;NVRM: Xid (PCI:0000:10:1c): 48, pid=1896, An uncorrectable double bit error", Reason.DEVICE_ERROR, True),
    ("3,1,1,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=77, name=python, MMU Fault", Reason.WORKER_FAILED, False),
    ("3,1,1,-;NVRM: Xid (PCI:0000:3b:00): 13, Graphics SM Warp Exception", Reason.WORKER_FAILED, False),
    ("4,1,1,-;Out of memory: Killed process 4242 (python) total-vm:1kB, anon-rss:1kB", Reason.MEMORY, False),
    ("4,1,1,-;Memory cgroup out of memory: Killed process 4242 (python) total-vm:1kB", Reason.MEMORY, False),
    ("3,1,1,-;I/O error, dev nvme0n1, sector 7 op 0x0:(READ) flags 0x0", Reason.DISK_ERROR, True),
    ("3,1,1,-;EXT4-fs error (device sda1): ext4_find_entry:1463", Reason.DISK_ERROR, True),
)


@pytest.mark.parametrize(("line", "reason", "grave"), KERNEL)
def test_the_kernels_words(line, reason, grave):
    fact = read_line(line)
    assert fact is not None
    assert (fact.reason, fact.grave) == (reason, grave)


def test_other_words_of_the_kernel_mean_nothing():
    assert read_line("6,1,1,-;eth0: link up") is None
    assert read_line("") is None


def test_the_kernel_log_is_read_without_waiting_and_from_now_on(tmp_path):
    clock = ManualClock(2.0)
    nowhere = KernelLog(clock, tmp_path / "none")
    nowhere.look()
    assert nowhere.since(0.0) == []
    plain = tmp_path / "plain"
    plain.write_text("old\n")
    log = KernelLog(clock, plain)
    with plain.open("a") as file:
        file.write(KERNEL[5][0])
    clock.advance(1.0)
    log.look()
    (fact,) = log.since(3.0)
    assert (fact.pid, fact.time) == (4242, 3.0)
    assert log.since(3.5) == []
    assert set(log.counts.values()) == {0.0}
    for line in (KERNEL[0][0], KERNEL[7][0], "2,1,1,-;mce: [Hardware Error]: Machine check events logged"):
        with plain.open("a") as file:
            file.write(line)
        log.look()
    assert log.counts == {"xid": 1.0, "kernel.disk_errors": 1.0, "kernel.machine_checks": 1.0}
    log.close()
    assert log.counts == {}


def _member(tmp_path: Path, log: str) -> Member:
    directory = AttemptDir(tmp_path / "attempt-0001")
    directory.prepare()
    directory.log(2, 1).write_text(log)
    return Member(rank=2, generation=1, shim=None, directory=directory)


def _end(exit_code: int | None, signal: int | None = None) -> ExitFile:
    return ExitFile(exit_code=exit_code, signal=signal, kind="exit", message="", time=5.0)


AROUND = Surroundings(node=1)


def _explained(tmp_path, log, end, around=AROUND):
    problem = explain_end(_member(tmp_path, log), end, around)
    assert problem is not None
    return Reason(problem.reason), problem.message, problem.exclude


def test_device_memory_and_device_errors_are_told_from_user_code(tmp_path):
    memory = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert _explained(tmp_path, f"{memory}\n", _end(1)) == (
        Reason.DEVICE_MEMORY,
        f"rank 2 exited with code 1: {memory}",
        False,
    )
    ecc = LINES[Reason.DEVICE_ERROR][0]
    assert _explained(tmp_path, f"{ecc}\n", _end(1))[::2] == (Reason.DEVICE_ERROR, True)


def test_a_gpu_that_fell_off_the_bus_explains_whatever_the_program_says(tmp_path):
    fact = read_line(KERNEL[0][0])
    around = Surroundings(node=1, facts=(fact,))
    reason, message, exclude = _explained(tmp_path, "RuntimeError: CUDA error: something\n", _end(1), around)
    assert (reason, exclude) == (Reason.DEVICE_ERROR, True)
    assert "XID 79 (GPU has fallen off the bus)" in message
    assert "CUDA error: something" in message


def test_a_fault_of_the_program_on_the_gpu_stays_the_programs_and_names_the_xid(tmp_path):
    around = Surroundings(node=1, facts=(read_line(KERNEL[3][0]),))
    reason, message, exclude = _explained(
        tmp_path, "RuntimeError: CUDA error: an illegal memory access was encountered\n", _end(1), around
    )
    assert (reason, exclude) == (Reason.WORKER_FAILED, False)
    assert "XID 31 (GPU memory page fault)" in message


def test_killed_for_memory_by_count_or_by_the_kernels_words(tmp_path):
    words = "rank 2 was killed by SIGKILL: the machine ran out of memory"
    assert _explained(tmp_path, "", _end(None, 9), Surroundings(node=0, memory_ran_out=True))[:2] == (
        Reason.MEMORY,
        words,
    )
    facts = (Fact(reason=Reason.MEMORY, text="Killed process 1", grave=False, pid=1),)
    assert _explained(tmp_path, "", _end(None, 9), Surroundings(node=0, facts=facts))[:2] == (Reason.MEMORY, words)
    assert _explained(tmp_path, "", _end(None, 9))[:2] == (Reason.WORKER_KILLED, "rank 2 was killed by SIGKILL")


def test_an_abort_of_the_watchdog_is_an_error_of_the_collective(tmp_path):
    line = LINES[Reason.COLLECTIVE][4]
    log = f"terminate called after throwing an instance of 'c10::DistBackendError'\n{line}\n"
    assert _explained(tmp_path, log, _end(None, 6))[0] is Reason.COLLECTIVE
    assert _explained(tmp_path, "step 1\n", _end(None, 6))[0] is Reason.WORKER_KILLED


def test_a_worker_on_its_way_out_is_explained_by_its_log_and_a_healthy_one_is_not(tmp_path):
    log = "Traceback (most recent call last):\nValueError: bad batch\n"
    problem = explain_log(_member(tmp_path, log), AROUND, 7.0)
    assert (problem.reason, problem.message, problem.time) == (
        "worker-failed",
        "rank 2 failed: ValueError: bad batch",
        7.0,
    )
    gloo = f"Traceback (most recent call last):\n{LINES[Reason.COLLECTIVE][0]}\n"
    assert explain_log(_member(tmp_path, gloo), AROUND, 7.0) is None
    assert explain_log(_member(tmp_path, "step 1\nstep 2\n"), AROUND, 7.0) is None


def test_the_stack_in_a_log_names_the_innermost_frame_and_the_users(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        'step 3\nThread 0x1 (most recent call first):\n  File "/a/b.py", line 1 in other\n\n'
        "Current thread 0x2 (most recent call first):\n"
        '  File "/v/site-packages/torch/distributed/distributed_c10d.py", line 2810 in all_reduce\n'
        '  File "/home/u/train.py", line 31 in step\n  File "/home/u/train.py", line 50 in <module>\n'
    )
    assert describe(0, log, 7) == "in all_reduce (distributed_c10d.py:2810), called from step (train.py:31)"
    assert describe(0, log, log.stat().st_size) == ""
