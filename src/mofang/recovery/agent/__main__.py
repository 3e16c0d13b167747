"""Run the agent of one node: ``python -P -m mofang.recovery.agent --dir ATTEMPT_DIR --node K``.

The command returns as soon as the agent runs, detached, or has said on standard error why it does not. Exit codes: 0 it
runs (or one runs already, or the attempt is over), 3 a newer attempt of the job was started, 4 anything else.
"""

import os
import sys

_FAILED = 4


def main() -> int:
    """Detach, and wait for the agent's word that it runs."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os.setsid()
        from mofang.recovery.agent.start import serve  # noqa: PLC0415 - imports are the child's work

        serve(sys.argv[1:], writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        word = pipe.read()
    if word == "ok":
        return 0
    code, _, message = word.partition(" ")
    print(message or "the agent died while it started", file=sys.stderr)  # noqa: T201 - read by the backend
    return int(code) if code.isdigit() else _FAILED


if __name__ == "__main__":
    raise SystemExit(main())
