"""The agent on one node: real workers, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from mofang.backends.protocol import ObservedState
from mofang.domain.events import EventKind
from mofang.domain.scenario import Environment, Mount, RestartPolicy
from mofang.errors import ConflictError
from mofang.recovery.processes import find, marked

pytestmark = pytest.mark.serial

SLEEP = "import time; time.sleep(60)"


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def test_all_workers_ending_well_completes_the_attempt(attempt):
    job = attempt("import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])", workers=2).launch()
    assert job.outcome()["reason"] == "completed"
    assert {job.log(rank).strip() for rank in (0, 1)} == {"rank 0 of 2", "rank 1 of 2"}
    kinds = [event.kind for event in job.events()]
    assert kinds == ["generation-started", "worker-exited", "worker-exited", "generation-ended", "outcome"]
    assert [event.sequence for event in job.events()] == [1, 2, 3, 4, 5]


def test_workers_get_torchruns_variables_and_disjoint_cores(attempt):
    program = "import os, json; print(json.dumps([dict(os.environ), sorted(os.sched_getaffinity(0))]))"
    job = attempt(program, workers=2, env={"COLOUR": "blue"}).launch()
    job.outcome()
    (first, cores), (second, others) = (json.loads(job.log(rank)) for rank in (0, 1))
    assert (first["RANK"], first["LOCAL_RANK"], first["LOCAL_WORLD_SIZE"], first["NODE_RANK"]) == ("0", "0", "2", "0")
    assert (second["RANK"], second["MASTER_PORT"]) == ("1", first["MASTER_PORT"])
    assert first["COLOUR"] == "blue"
    assert first["OMP_NUM_THREADS"] == "1"
    assert first["MOFANG_MARKER"] == job.spec.marker
    assert first["MOFANG_CHECKPOINT_DIR"] == f"{job.spec.run_dir}/checkpoints"
    if {0, 1} <= os.sched_getaffinity(0):
        assert (cores, others) == ([0], [1])


def test_killed_worker_is_followed_by_the_next_generation_with_another_port(attempt, wait_until):
    job = attempt(SLEEP, workers=2).launch()
    killed = job.worker_pid(generation=1, rank=1)
    survivor = find(job.worker_pid(generation=1, rank=0))
    start = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    job.worker_pid(generation=2)
    assert time.monotonic() - start < 5.0  # about 0.2 s on a quiet machine
    assert survivor is not None
    assert find(survivor.pid) != survivor
    ended = job.events(EventKind.GENERATION_ENDED)[0]
    assert ended.data["reason"] == "worker-killed"
    assert "rank 1 was killed by SIGKILL" in ended.data["message"]
    first, second = (event.data["port"] for event in job.events(EventKind.GENERATION_STARTED))
    assert first != second
    assert _number(job.directory.generation) == 2


def test_killed_shim_takes_its_worker_along(attempt, wait_until):
    job = attempt(SLEEP).launch()
    worker = find(job.worker_pid(1))
    shim = int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    job.worker_pid(2)
    assert find(worker.pid) != worker


def test_workers_outlive_the_agent_and_the_next_one_sees_their_end(attempt, wait_until, tmp_path):
    gate = tmp_path / "gate"
    job = attempt(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)").launch()
    worker = find(job.worker_pid(1))
    job.kill_agent()
    wait_until(lambda: job.backend.observe(job.spec).state is ObservedState.AGENT_DEAD)
    assert find(worker.pid) == worker
    job.launch()
    assert job.backend.observe(job.spec).state is ObservedState.RUNNING
    assert find(worker.pid) == worker
    gate.touch()
    assert job.outcome()["reason"] == "completed"
    assert _number(job.directory.generation) == 1
    wait_until(lambda: job.backend.observe(job.spec).state is ObservedState.ENDED)


def test_success_while_no_agent_lived_is_not_run_again(attempt, wait_until, tmp_path):
    gate = tmp_path / "gate"
    job = attempt(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('done')").launch()
    job.worker_pid(1)
    job.kill_agent()
    gate.touch()
    wait_until(job.directory.exit(0, 1).exists)
    wait_until(lambda: not marked(job.spec.marker))
    job.launch()
    assert job.outcome()["reason"] == "completed"
    assert job.log() == "done\n"
    assert not job.directory.log(0, 2).exists()


def test_worker_killed_while_no_agent_lived_is_started_again(attempt, wait_until):
    job = attempt(SLEEP).launch()
    worker = job.worker_pid(1)
    job.kill_agent()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not marked(job.spec.marker))
    job.launch()
    job.worker_pid(2)


def test_second_agent_leaves_quietly(attempt):
    job = attempt(SLEEP).launch()
    pid = job.agent_pid()
    command = [sys.executable, "-P", "-m", "mofang.recovery.agent", "--dir", job.spec.attempt_dir, "--node", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert job.agent_pid() == pid


def test_grandchild_that_left_its_session_and_cleared_its_environment_is_gone(attempt, wait_until, tmp_path):
    note = tmp_path / "pid"
    program = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "300"], env={{}}, start_new_session=True)
open({str(note)!r}, "w").write(str(child.pid))
time.sleep(1 if {{once}} else 60)
"""
    job = attempt(program.replace("{once}", "True")).launch()
    grandchild = wait_until(lambda: find(_number(note)))
    assert job.outcome()["reason"] == "completed"
    assert find(grandchild.pid) != grandchild


def test_same_grandchild_is_gone_when_worker_and_shim_are_killed(attempt, wait_until, tmp_path):
    note = tmp_path / "pid"
    program = f"""
import os, subprocess, time
if os.environ["MOFANG_GENERATION"] == "1":
    child = subprocess.Popen(["sleep", "300"], env={{}}, start_new_session=True)
    open({str(note)!r}, "w").write(str(child.pid))
    time.sleep(60)
"""
    job = attempt(program).launch()
    grandchild = wait_until(lambda: find(_number(note)))
    worker = job.worker_pid(1)
    shim = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    assert job.outcome()["reason"] == "completed"
    assert find(grandchild.pid) != grandchild


def test_same_grandchild_is_gone_when_it_was_orphaned_while_no_agent_lived(attempt, wait_until, tmp_path):
    note = tmp_path / "pid"
    program = f"""
import os, subprocess, time
if os.environ["MOFANG_GENERATION"] == "1":
    child = subprocess.Popen(["sleep", "300"], env={{}}, start_new_session=True)
    open({str(note)!r}, "w").write(str(child.pid))
    time.sleep(60)
"""
    job = attempt(program).launch()
    grandchild = wait_until(lambda: find(_number(note)))
    record = job.directory.processes(0)
    wait_until(lambda: record.exists() and f"{grandchild.pid} " in record.read_text())
    worker = job.worker_pid(1)
    shim = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    job.kill_agent()
    wait_until(lambda: find(job.agent_pid()) is None)
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: find(worker) is None)
    assert find(grandchild.pid) == grandchild
    job.launch()
    assert job.outcome()["reason"] == "completed"
    assert find(grandchild.pid) != grandchild


def test_hang_is_detected_once_there_was_progress(attempt):
    program = """
import os, time
from mofang.recovery.worker import Worker
worker = Worker.from_environment()
worker.heartbeat(step=7)
if worker.generation == 1:
    time.sleep(60)
"""
    job = attempt(program, restart=RestartPolicy(hang_timeout_s=0.6)).launch()
    assert job.outcome()["reason"] == "completed"
    (hang,) = job.events(EventKind.HANG_DETECTED)
    assert hang.data["step"] == 7
    assert hang.data["silent_s"] > 0.6
    assert job.events(EventKind.GENERATION_ENDED)[0].data["reason"] == "hang"


def test_program_without_heartbeats_is_never_taken_for_hung(attempt):
    job = attempt("import time; time.sleep(1.5)", restart=RestartPolicy(hang_timeout_s=0.2)).launch()
    assert job.outcome()["reason"] == "completed"
    assert not job.events(EventKind.HANG_DETECTED)


def test_three_failures_alike_end_the_attempt_with_the_users_own_words(attempt):
    program = "import os\nraise ValueError(f'cannot read batch {os.getpid()}')"
    outcome = attempt(program, workers=2).launch().outcome()
    assert outcome["reason"] == "repeated-failure"
    assert "3 times" in outcome["message"]
    assert "exited with code 1: ValueError: cannot read batch" in outcome["message"]
    assert outcome["generation"] == 3


def test_failures_at_different_steps_are_not_alike(attempt):
    program = """
from mofang.recovery.worker import Worker
worker = Worker.from_environment()
worker.heartbeat(step=worker.generation)
if worker.generation < 4:
    raise RuntimeError("lost the connection")
"""
    job = attempt(program).launch()
    assert job.outcome()["reason"] == "completed"
    assert _number(job.directory.generation) == 4


def test_restarts_are_limited(attempt):
    outcome = attempt("raise SystemExit(3)", restart=RestartPolicy(max_restarts=0)).launch().outcome()
    assert outcome["reason"] == "worker-failed"
    assert outcome["message"] == "rank 0 exited with code 3"


def test_history_survives_the_agent(attempt, wait_until):
    program = """
import os, time
time.sleep(0.3)
raise RuntimeError("the same")
"""
    job = attempt(program).launch()
    wait_until(lambda: job.events(EventKind.GENERATION_ENDED))
    job.kill_agent()
    wait_until(lambda: job.backend.observe(job.spec).state is ObservedState.AGENT_DEAD)
    job.launch()
    outcome = job.outcome()
    assert outcome["reason"] == "repeated-failure"
    assert len(job.events(EventKind.GENERATION_ENDED)) == 3


@pytest.mark.parametrize(("argv", "words"), [(("no-such-program",), "No such file"), (("/etc/passwd",), "denied")])
def test_program_that_cannot_be_executed_ends_at_once(attempt, argv, words):
    job = attempt("", argv=argv).launch()
    outcome = job.outcome()
    assert outcome["reason"] == "command-not-found"
    assert f"cannot execute {argv[0]}" in outcome["message"]
    assert words in outcome["message"]
    assert outcome["generation"] == 1


def test_missing_working_directory_ends_at_once(attempt):
    outcome = attempt("pass", workdir="/no/such/folder").launch().outcome()
    assert outcome["reason"] == "launch"
    assert "/no/such/folder" in outcome["message"]


def test_stop_gives_the_program_its_grace(attempt, wait_until, tmp_path):
    note = tmp_path / "saved"
    program = f"""
import signal, sys, time
def save(*_):
    open({str(note)!r}, "w").write("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open({str(note)!r}, "w").write("ready")
time.sleep(60)
"""
    job = attempt(program, grace_s=20.0).launch()
    wait_until(lambda: note.exists() and note.read_text() == "ready")
    job.backend.stop(job.spec)
    assert job.outcome()["reason"] == "stopped-by-user"
    assert note.read_text() == "saved"


def test_stop_kills_what_ignores_sigterm_after_its_grace(attempt, wait_until, tmp_path):
    note = tmp_path / "ready"
    program = f"""
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(note)!r}, "w").close()
time.sleep(60)
"""
    job = attempt(program, grace_s=0.5).launch()
    wait_until(note.exists)
    start = time.monotonic()
    os.kill(job.agent_pid(), signal.SIGTERM)
    assert job.outcome()["reason"] == "stopped-by-user"
    assert time.monotonic() - start > 0.5
    assert not marked(job.spec.marker)


def test_secrets_reach_the_worker_and_nothing_else(attempt, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"API_KEY": "hunter2-hunter2"}))
    program = """
import os
if os.environ["MOFANG_GENERATION"] == "1":
    raise SystemError("refused: " + os.environ["API_KEY"])
"""
    job = attempt(program, secrets_file=str(secret)).launch()
    assert job.outcome()["reason"] == "completed"
    assert "refused: ***" in job.events(EventKind.GENERATION_ENDED)[0].data["message"]
    worker_log = job.directory.log(0, 1)
    for path in (path for path in job.directory.path.rglob("*") if path.is_file() and path != worker_log):
        assert "hunter2" not in path.read_text(), path
    assert all("hunter2" not in artefact.text for artefact in job.backend.render(job.spec))


def test_secrets_are_not_on_any_command_line(attempt, wait_until, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"API_KEY": "hunter2-hunter2"}))
    job = attempt(SLEEP, secrets_file=str(secret)).launch()
    job.worker_pid(1)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"hunter2" not in path.read_bytes()
        except OSError:
            continue


def test_unreadable_secrets_end_the_attempt(attempt, tmp_path):
    outcome = attempt("pass", secrets_file=str(tmp_path / "missing")).launch().outcome()
    assert outcome["reason"] == "launch"
    assert "secrets" in outcome["message"]


def test_older_fence_is_refused(attempt):
    job = attempt("pass").launch()
    job.outcome()
    job.directory.outcome.unlink()
    job.directory.fence.write_text("2\n")
    command = [sys.executable, "-P", "-m", "mofang.recovery.agent", "--dir", job.spec.attempt_dir, "--node", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 3
    assert "newer attempt" in answer.stderr
    with pytest.raises(ConflictError, match="newer attempt"):
        job.backend.launch(job.spec)


def test_agent_that_is_overtaken_by_a_newer_attempt_leaves_with_its_workers(attempt, wait_until):
    job = attempt(SLEEP).launch()
    job.worker_pid(1)
    job.directory.fence.write_text("2\n")
    wait_until(lambda: not marked(job.spec.marker))
    wait_until(lambda: job.backend.observe(job.spec).state is ObservedState.AGENT_DEAD)
    assert not job.directory.outcome.exists()


def test_shared_memory_is_removed_with_its_prefix_and_without(attempt, wait_until, tmp_path):
    note = tmp_path / "names"
    program = f"""
import os, time
from multiprocessing import resource_tracker, shared_memory
named = shared_memory.SharedMemory(os.environ["MOFANG_SHM_PREFIX"] + "arena", create=True, size=4096)
plain = shared_memory.SharedMemory(create=True, size=4096)
for one in (named, plain):
    resource_tracker.unregister(one._name, "shared_memory")
open({str(note)!r}, "w").write(named.name + " " + plain.name)
time.sleep(60)
"""
    job = attempt(program).launch()
    names = wait_until(lambda: note.exists() and note.read_text().split())
    assert all((Path("/dev/shm") / name).exists() for name in names)
    foreign = shared_memory.SharedMemory(create=True, size=4096)
    try:
        wait_until(lambda: job.directory.segments(0).exists())
        job.backend.stop(job.spec)
        job.outcome()
        assert not any((Path("/dev/shm") / name).exists() for name in names)
        assert (Path("/dev/shm") / foreign.name).exists()
    finally:
        foreign.close()
        foreign.unlink()


def test_clear_ends_agent_and_workers(attempt, wait_until):
    job = attempt(SLEEP, workers=2).launch()
    job.worker_pid(1)
    agent = find(job.agent_pid())
    assert job.backend.clear(job.spec) >= 5  # the agent, two shims, two workers
    assert not marked(job.spec.marker)
    assert find(agent.pid) != agent


def test_dead_controller_is_started_again_outside_the_agents_family(attempt, wait_until, tmp_path):
    note = tmp_path / "woken"
    wake = (sys.executable, "-c", f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    job = attempt(SLEEP, wake=wake, wake_socket=str(tmp_path / "controller.sock")).launch()
    woken = wait_until(lambda: find(_number(note)))
    job.worker_pid(1)
    job.backend.clear(job.spec)
    assert find(woken.pid) == woken  # clearing the attempt spares it
    os.kill(woken.pid, signal.SIGKILL)


def test_environment_features(attempt, tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    tool = venv / "bin" / "my-tool"
    tool.write_text("#!/bin/sh\ncat data/input; echo $VIRTUAL_ENV $COLOUR\n")
    tool.chmod(0o755)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "input").write_text("mounted ")
    (tmp_path / "work").mkdir()
    environment = Environment(
        venv=str(venv),
        variables={"COLOUR": "red"},
        mounts=(Mount(target="data", source=str(tmp_path / "source")),),
    )
    job = attempt("", argv=("my-tool",), environment=environment, workdir=str(tmp_path / "work")).launch()
    assert job.outcome()["reason"] == "completed"
    assert job.log() == f"mounted {venv} red\n"


def test_modules_are_loaded_by_name_only(attempt, tmp_path):
    profile = tmp_path / ".bash_profile"
    profile.write_text('module() { echo "loading <$2>"; }\n')
    environment = Environment(modules=("gcc/12", "a; echo broken"), variables={"HOME": str(tmp_path)})
    job = attempt("", argv=("echo", "$HOME; ls"), environment=environment).launch()
    assert job.outcome()["reason"] == "completed"
    assert job.log() == "loading <gcc/12>\nloading <a; echo broken>\n$HOME; ls\n"


def test_mount_outside_the_working_directory_is_refused(attempt):
    environment = Environment(mounts=(Mount(target="../../outside", source="/tmp"),))
    outcome = attempt("pass", environment=environment).launch().outcome()
    assert outcome["reason"] == "launch"
    assert "outside the working directory" in outcome["message"]


def test_launching_twice_starts_one_agent(attempt):
    job = attempt(SLEEP).launch()
    pid = job.agent_pid()
    job.launch()
    job.backend.launch(replace(job.spec))
    assert job.agent_pid() == pid


def _fill(path: Path) -> Path:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def test_full_disk_ends_the_attempt_with_that_reason_once_it_can_be_written(attempt, wait_until, tmp_path):
    (tmp_path / "runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path / "runs")]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        job = attempt(SLEEP).launch()
        worker = job.worker_pid(1)
        ballast = _fill(tmp_path / "runs" / "ballast")
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not marked(job.spec.marker))
        time.sleep(3.0)  # the agent finds no room for another generation, nor for its last word
        assert job.backend.observe(job.spec).state is ObservedState.RUNNING
        ballast.unlink()
        outcome = job.outcome()
        assert outcome["reason"] == "disk-full"
        assert "cannot be recorded: No space left on device" in outcome["message"]
        assert [event.sequence for event in job.events()] == list(range(1, len(job.events()) + 1))
        job.backend.clear(job.spec)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)
