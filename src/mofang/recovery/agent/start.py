"""Becoming the agent of a node: arguments, lock, fence, signals."""

from __future__ import annotations

import fcntl
import os
import signal
import traceback
from pathlib import Path
from typing import NoReturn

from mofang.clock import Clock, SystemClock
from mofang.errors import ConflictError, MofangError, UsageError
from mofang.recovery.agent.launchfile import read_launch
from mofang.recovery.agent.loop import Agent
from mofang.recovery.agent.wake import become_subreaper
from mofang.recovery.rundir import AttemptDir, read_number

__all__ = ["serve"]

_LOCK_TRIES = 20  # somebody may be looking whether the lock is held
_LOCK_RETRY_S = 0.025
_NEWER_ATTEMPT = 3
_FAILED = 4


def serve(arguments: list[str], words: int) -> NoReturn:
    """Be the agent until the attempt is over; say on the descriptor ``words`` that it runs, or why not."""
    code = 0
    try:
        agent = _begin(arguments, SystemClock())
        _say(words, "ok")
        if agent is not None:
            agent.run()
    except ConflictError as error:
        code = _NEWER_ATTEMPT
        _say(words, f"{code} {error.message}")
    except (MofangError, OSError) as error:
        code = _FAILED
        _say(words, f"{code} {error}")
    except Exception:
        code = _FAILED
        traceback.print_exc()
    finally:
        os._exit(code)


def _say(words: int, text: str) -> None:
    try:
        os.write(words, text.encode())
        os.close(words)
    except OSError:
        return  # said before, or nobody listens


def _begin(arguments: list[str], clock: Clock) -> Agent | None:
    directory, node = _parse(arguments)
    spec = read_launch(directory.launch)
    if not _take_lock(directory.agent_lock(node), clock) or directory.outcome.exists():
        return None
    fence = read_number(directory.fence) or 0
    if fence > spec.fence:
        raise ConflictError(f"a newer attempt of job {spec.job_id} was started: fence {fence} > {spec.fence}")
    _detach(directory.agent_log(node))
    become_subreaper()
    agent = Agent(spec, node, clock)

    def stop(number: int, frame: object) -> None:
        agent.stop_asked = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return agent


def _parse(arguments: list[str]) -> tuple[AttemptDir, int]:
    match arguments:
        case ["--dir", path, "--node", number] if number.isdigit():
            return AttemptDir(Path(path).absolute()), int(number)
    raise UsageError("usage: python -m mofang.recovery.agent --dir ATTEMPT_DIR --node K")


def _take_lock(path: Path, clock: Clock) -> bool:
    """Hold the lock for as long as this process lives, and leave its number in the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            clock.sleep(_LOCK_RETRY_S)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return True
    return False


def _detach(log: Path) -> None:
    """Take nothing as input, write to the log, and stand in a directory that nobody removes."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
    os.chdir("/")
