"""Workers forked from a standby are what a fresh interpreter would be; and the standby may fail without harm."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mofang.domain.events import EventKind
from mofang.recovery.agent.shims import StartedShim, find_shims, read_exit, start_shim
from mofang.recovery.agent.standby import Standby, entry_of
from mofang.recovery.processes import environment_of, find, is_alive, marked, services
from mofang.recovery.segments import Segments, replica_name, segment_prefix, snapshot_name

pytestmark = pytest.mark.serial

FACTS = """
import yaml, json, os, signal, sys, threading
import __main__
facts = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": list(sys.flags),
    "executable": sys.executable,
    "main": sorted(set(vars(__main__)) - {"facts"}), "name": __name__, "file": __file__,
    "spec": getattr(__spec__, "name", None),
    "loader": type(__loader__).__name__, "cwd": os.getcwd(), "cores": sorted(os.sched_getaffinity(0)),
    "environment": dict(os.environ), "shown": sorted(open("/proc/self/environ").read().strip("\\0").split("\\0")),
    "command": open("/proc/self/cmdline").read().strip("\\0").split("\\0"), "group": os.getpgid(0) == os.getpid(),
    "signals": {n.name: str(signal.getsignal(n)) for n in signal.valid_signals() if isinstance(n, signal.Signals)},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "stdin": os.readlink("/proc/self/fd/0"),
    "output": [sys.stdout.encoding, sys.stdout.line_buffering, sys.stdout.write_through, sys.stderr.errors],
    "files": [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")],
    "threads": [threading.active_count(), threading.current_thread() is threading.main_thread()],
    "collector": __import__("gc").isenabled(), "umask": os.umask(0o22), "comm": open("/proc/self/comm").read(),
}
print(json.dumps(facts, indent=1, sort_keys=True))
"""
PROGRAMS = {
    "facts": FACTS,
    "ends well": "import yaml\nprint('done', end='')",
    "exit 3": "import yaml, sys\nsys.exit(3)",
    "exit with a text": "import yaml, sys\nprint('before')\nsys.exit('the reason')",
    "an error": "import yaml\ndef inner():\n    raise ValueError('no')\ndef outer():\n    inner()\nouter()",
    "an error with a cause": "import yaml\ntry:\n    1 / 0\nexcept Exception as e:\n    raise KeyError('k') from e",
    "not Python": "import yaml\nif True print",
    "own hook": "import yaml, sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__, a[2].tb_lineno)\n1 / 0",
    "killed": "import yaml, os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "import yaml, os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "interrupted": "import yaml, os, signal\nos.kill(os.getpid(), signal.SIGINT)",
    "broken pipe": "import yaml, os\nr, w = os.pipe()\nos.close(r)\nos.write(w, b'x')",
    "leaves at once": "import yaml, os, atexit\natexit.register(print, 'never')\nos._exit(7)",
    "at exit": "import yaml, atexit\natexit.register(print, 'first in')\natexit.register(print, 'out')\n1 / 0",
    "threads": "import yaml, threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()",
    "deprecated": "import yaml, warnings\nwarnings.warn('old', DeprecationWarning)",
    "buffered": "import yaml, sys\nsys.stdout.write('out ')\nsys.stderr.write('err ')\nsys.stdout.write('out')",
    "orphan": (
        "import yaml, subprocess\nprint(subprocess.Popen(['sleep', '300'], env={}, start_new_session=True).pid > 0)"
    ),
    "processes": """
import yaml, multiprocessing, os, pickle
from dataclasses import dataclass

@dataclass
class Point:
    x: int

def double(point):
    return Point(point.x * 2)

if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(Point(1))) == Point(1)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, pool.map(double, [Point(1), Point(2)]))
""",
}


@pytest.fixture
def place(tmp_path):
    """A folder to work in, the environment of a worker in it, and no process left behind."""
    marker = f"standby{os.getpid()}x{tmp_path.name[-12:].replace('-', '')}.1"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
        "MOFANG_MARKER": marker,
        "MOFANG_GENERATION": "0",
        "RANK": "0",
    }
    (tmp_path / "work").mkdir()
    yield Place(tmp_path, environment)
    for process in marked(marker):
        os.kill(process.pid, signal.SIGKILL)


class Place:
    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.marker = environment["MOFANG_MARKER"]
        self.cwd = str(folder / "work")

    def order(self, argv, name="w", cores=None):
        (self.folder / name).mkdir(exist_ok=True)
        log, end = (str(self.folder / name / what) for what in ("log", "exit"))
        return {"argv": list(argv), "cwd": self.cwd, "log": log, "exit": end, "cores": cores}

    def standby(self, argv):
        standby = Standby(entry_of(argv), self.cwd, self.environment)
        end = time.monotonic() + 20
        while not standby.ready and standby.problem is None:
            assert time.monotonic() < end
            standby.poll()
            time.sleep(0.005)
        return standby

    def end(self, shim: StartedShim, order):
        """Return how a worker ended and what it said, once its shim is gone."""
        pid = shim.worker()
        assert pid
        limit = time.monotonic() + 20
        while read_exit(Path(order["exit"])) is None or is_alive(shim.process):
            assert time.monotonic() < limit
            time.sleep(0.005)
        end = read_exit(Path(order["exit"]))
        return (end.exit_code, end.signal, end.kind, end.message), Path(order["log"]).read_text()

    def both(self, argv):
        """Run a program started afresh and forked."""
        environment = self.environment | {"MOFANG_GENERATION": "12", "RANK": "3", "COLOUR": "blue"}
        cores = sorted(os.sched_getaffinity(0))[:1]
        fresh = self.order(argv, "fresh", cores)
        first = self.end(start_shim("r0003-g0012", fresh, environment), fresh)
        standby = self.standby(argv)
        assert standby.problem is None
        forked = self.order(argv, "forked", cores)
        second = self.end(standby.start_shim("r0003-g0012", forked, environment), forked)
        standby.close()
        return first, second


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_script_ends_and_speaks_as_if_started_afresh(place, name):
    Path(place.cwd, "program.py").write_text(PROGRAMS[name])
    if name == "not Python":  # what imports nothing is not forked; its own error comes from the module beside it
        Path(place.cwd, "program.py").write_text("import yaml\nimport broken")
        Path(place.cwd, "broken.py").write_text(PROGRAMS[name])
    (end, said), (other_end, other_said) = place.both((sys.executable, "program.py", "one", "--two"))
    assert other_end == end
    assert other_said == said
    assert end == {
        "exit 3": (3, None, "exit", ""),
        "killed": (None, 9, "exit", ""),
        "terminated": (None, 15, "exit", ""),
        "interrupted": (None, 2, "exit", ""),
        "leaves at once": (7, None, "exit", ""),
    }.get(name, end)
    assert "standby.py" not in said


@pytest.mark.parametrize("flags", [(), ("-P",), ("-O", "-u")])
def test_a_module_runs_as_if_started_afresh(place, flags):
    package = Path(place.cwd, "package")
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("raise_ = lambda: 1 / 0")
    (package / "__main__.py").write_text(FACTS + "\nfrom package.part import raise_\nraise_()\n")
    place.environment["PYTHONPATH"] = place.cwd
    (end, said), (other_end, other_said) = place.both((sys.executable, *flags, "-m", "package", "x"))
    assert end == other_end == (1, None, "exit", "")
    assert other_said == said
    assert "ZeroDivisionError" in said


def test_each_worker_has_its_own_chance_and_its_own_secrets(place):
    Path(place.cwd, "program.py").write_text(
        "import numpy, random, multiprocessing as m\n"
        "print(numpy.random.random(), random.random(), bytes(m.current_process().authkey).hex())"
    )
    argv = (sys.executable, "program.py")
    standby = place.standby(argv)
    assert standby.loaded == ("numpy",)
    said = []
    for name in ("a", "b"):
        order = place.order(argv, name)
        said.append(place.end(standby.start_shim(name, order, place.environment), order)[1].split())
    assert all(one != other for one, other in zip(*said, strict=True))
    standby.close()


def test_threads_of_torch_are_as_many_as_when_started_afresh(place):
    place.environment |= {"OMP_NUM_THREADS": "2"}
    Path(place.cwd, "program.py").write_text(
        "import os, torch\n"
        "print(torch.get_num_threads(), torch.get_num_interop_threads(), torch.initial_seed())\n"
        "(torch.randn(600, 600, requires_grad=True) @ torch.randn(600, 600)).sum().backward()\n"
        "torch.set_num_threads(1)\nprint(torch.get_num_threads())"
    )
    (end, said), (other_end, other_said) = place.both((sys.executable, "program.py"))
    assert end == other_end == (0, None, "exit", "")
    (*threads, seed, after), (*other_threads, other_seed, other_after) = said.split(), other_said.split()
    assert (threads, after) == (other_threads, other_after) == (["2", threads[1]], "1")
    assert seed != other_seed


def test_programs_that_cannot_be_forked_are_not(place):
    assert entry_of(("bash", "-c", "true")) is None
    assert entry_of((sys.executable, "-c", "pass")) is None
    assert entry_of((sys.executable, "-X", "dev", "program.py")) is None
    assert entry_of((sys.executable, "folder")) is None
    entry = entry_of(("python3.11", "-u", "-m", "package", "-m", "x"))
    assert (entry.interpreter, entry.module, entry.target, entry.arguments) == (
        ("python3.11", "-u"),
        True,
        "package",
        ("-m", "x"),
    )
    Path(place.cwd, "plain.py").write_text("import json")
    assert "nothing that is worth" in place.standby((sys.executable, "plain.py")).problem


def test_libraries_with_threads_are_not_forked(place):
    Path(place.cwd, "yaml.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    Path(place.cwd, "program.py").write_text("import yaml")
    standby = place.standby((sys.executable, "program.py"))
    assert standby.problem == "what was loaded has started 1 threads"
    assert standby.refused


def test_imports_are_found_through_modules_of_the_program_itself(place):
    Path(place.cwd, "program.py").write_text("from lib.deep import go\nif __name__ == '__main__':\n    go()")
    Path(place.cwd, "lib").mkdir()
    Path(place.cwd, "lib", "__init__.py").write_text("")
    Path(place.cwd, "lib", "deep.py").write_text("def go():\n    import yaml\n")
    standby = place.standby((sys.executable, "program.py"))
    assert standby.loaded == ("yaml",)
    standby.close()


def test_forked_shims_are_found_by_the_next_agent_and_the_standby_is_a_service(place):
    Path(place.cwd, "program.py").write_text("import yaml, time\ntime.sleep(60)")
    argv = (sys.executable, "program.py")
    standby = place.standby(argv)
    assert services(marked(place.marker)) == {standby.process}
    environment = place.environment | {"MOFANG_GENERATION": "4", "RANK": "11"}
    shim = standby.start_shim("r0011-g0004", place.order(argv), environment)
    worker = shim.worker()
    assert find_shims(place.marker, 4) == {11: shim.process}
    assert find_shims(place.marker, 0) == {}
    assert environment_of(worker)[b"RANK"] == b"11"
    assert b"MOFANG_SERVICE" not in environment_of(worker)
    assert services(marked(place.marker)) == {standby.process}
    standby.close()
    assert find(worker)  # it needs its shim, not the standby
    assert is_alive(shim.process)


def test_environment_longer_than_the_standbys_own_still_shows_who_it_is(place):
    Path(place.cwd, "program.py").write_text(
        "import yaml, os\nprint(len(os.environ['LONG']))\nimport time; time.sleep(60)"
    )
    argv = (sys.executable, "program.py", "y" * 20000)
    standby = place.standby(argv[:2])
    environment = place.environment | {"LONG": "x" * 100_000, "MOFANG_GENERATION": "9", "RANK": "1"}
    shim = standby.start_shim("r0001-g0009", place.order(argv), environment)
    assert shim.worker()
    assert find_shims(place.marker, 9) == {1: shim.process}
    standby.close()


SCRIPT = """
import os, time
import yaml
from mofang.recovery.worker import Worker
worker = Worker.from_environment()
print(worker.rank, worker.generation, os.environ["MASTER_PORT"], flush=True)
gate = os.environ["GATE"] + str(worker.generation)
while not os.path.exists(gate):
    time.sleep(0.01)
"""


@pytest.fixture
def job(attempt, tmp_path):
    """A job of two forked workers; a generation ends when its gate is made."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "program.py").write_text(SCRIPT)
    return attempt(
        "",
        argv=(sys.executable, "program.py"),
        workers=2,
        workdir=str(work),
        env={"GATE": str(tmp_path / "gate"), "PYTHONPATH": os.pathsep.join(sys.path)},
    ).launch()


def _standby_of(job):
    return next(iter(services(marked(job.spec.marker))), None)


def test_generations_are_forked_from_one_standby(job, wait_until, tmp_path):
    job.worker_pid(1)
    standby = _standby_of(job)
    assert standby is not None
    os.kill(job.worker_pid(1, 1), signal.SIGKILL)
    job.worker_pid(2)
    assert _standby_of(job) == standby
    (tmp_path / "gate2").touch()
    assert job.outcome()["reason"] == "completed"
    assert not marked(job.spec.marker)
    (told,) = job.events(EventKind.STANDBY)
    assert told.data["ready"] is True
    assert told.data["message"] == "loaded yaml"
    assert [job.log(rank, 2).split()[:2] for rank in (0, 1)] == [["0", "2"], ["1", "2"]]


def test_killed_standby_is_told_and_replaced_and_costs_no_generation(job, wait_until, tmp_path):
    job.worker_pid(1)
    first = _standby_of(job)
    os.kill(first.pid, signal.SIGKILL)
    os.kill(job.worker_pid(1, 0), signal.SIGKILL)
    job.worker_pid(2)
    wait_until(lambda: len(job.events(EventKind.STANDBY)) == 3)
    assert [event.data["ready"] for event in job.events(EventKind.STANDBY)] == [True, False, True]
    assert "died" in job.events(EventKind.STANDBY)[1].data["message"]
    assert _standby_of(job) != first
    (tmp_path / "gate2").touch()
    assert job.outcome()["reason"] == "completed"
    assert len(job.events(EventKind.GENERATION_STARTED)) == 2


def test_hung_standby_is_given_up_and_the_workers_start_afresh(job, wait_until, tmp_path):
    job.worker_pid(1)
    first = _standby_of(job)
    os.kill(first.pid, signal.SIGSTOP)
    os.kill(job.worker_pid(1, 0), signal.SIGKILL)
    job.worker_pid(2)
    assert find(first.pid) != first
    assert "did not answer" in job.events(EventKind.STANDBY)[1].data["message"]
    (tmp_path / "gate2").touch()
    assert job.outcome()["reason"] == "completed"
    assert [job.log(rank, 2).split()[:2] for rank in (0, 1)] == [["0", "2"], ["1", "2"]]


def test_standby_ends_with_its_agent_and_the_workers_do_not(job, wait_until, tmp_path):
    worker = find(job.worker_pid(1, 0))
    standby = _standby_of(job)
    job.kill_agent()
    wait_until(lambda: find(standby.pid) != standby)
    assert find(worker.pid) == worker
    job.launch()
    wait_until(lambda: len(job.events(EventKind.STANDBY)) == 2)
    other = _standby_of(job)
    assert other not in {standby, None}
    os.kill(worker.pid, signal.SIGKILL)
    job.worker_pid(2)
    assert _standby_of(job) == other
    job.backend.clear(job.spec)
    assert not marked(job.spec.marker)


def test_a_plan_without_standby_has_none(attempt, tmp_path):
    (tmp_path / "program.py").write_text("import yaml")
    job = attempt("", argv=(sys.executable, str(tmp_path / "program.py")), standby=False).launch()
    assert job.outcome()["reason"] == "completed"
    assert not job.events(EventKind.STANDBY)


def test_snapshots_stay_between_generations_and_go_at_the_end(job, wait_until, tmp_path):
    prefix = segment_prefix(job.spec.marker)
    job.worker_pid(1)
    kept = [Path("/dev/shm") / snapshot_name(prefix, 1), Path("/dev/shm") / replica_name(prefix, 0)]
    other = Path("/dev/shm") / f"{prefix}scratch"
    for path in (*kept, other):
        path.write_text("x")
    os.kill(job.worker_pid(1, 0), signal.SIGKILL)
    job.worker_pid(2)
    assert all(path.exists() for path in kept)
    assert not other.exists()
    (tmp_path / "gate2").touch()
    job.outcome()
    assert not any(path.exists() for path in kept)


def test_segments_of_another_node_on_the_same_machine_are_left_alone(tmp_path):
    marker = f"segments{os.getpid()}.1"
    names = [segment_prefix(marker, node) + "scratch" for node in (None, 0, 1)]
    paths = [Path("/dev/shm") / name for name in names]
    for path in paths:
        path.write_text(json.dumps(path.name))
    assert Segments(marker, tmp_path / "record", 0).remove() == 2
    assert [path.exists() for path in paths] == [False, False, True]
    assert Segments(marker, tmp_path / "record").remove() == 1
