"""A standby: a process that has loaded what a program needs, and forks the program's workers (a fork server).

It runs as ``PYTHON [FLAGS] standby.py AGENT PADDING`` with the interpreter of the worker's command line and imports
nothing of Mofang. Standard input is a socket: the agent first says what the program is, hears what was loaded or why
nothing can be forked, and then sends an order for each worker: what a shim gets, the shim's and the worker's whole
environment, and a descriptor for the answer. The standby forks the shim, which is adopted by the agent, and the shim
forks the worker: until its first line it looks and behaves like one that was started afresh.

It computes nothing, has one thread and no device, and ends with its agent.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import runpy
import signal
import socket
import struct
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_HEADER = struct.Struct("!Q")
_RUNTIME = {"torch", "numpy", "safetensors", "tokenizers", "pandas", "pyarrow", "scipy", "sklearn", "tqdm", "yaml"}
_LARGE = {"transformers", "datasets", "accelerate", "peft", "lightning", "pytorch_lightning", "torchvision"}
_LIBRARIES = _RUNTIME | _LARGE  # importing these touches no device and starts no thread; checked afterwards
_COMPILER = re.compile(r"\boptim\b|DistributedDataParallel|\bDDP\b|fully_shard|FullyShardedDataParallel|torch\.compile")
_WITH_TORCH = ("torch.distributed", "torch.distributed.nn")
_MAX_SOURCES = 64
_FAILED = 70  # a shim that could not do its work (sysexits.h, EX_SOFTWARE)


def _load_shim() -> types.ModuleType:
    """Load the shim beside this file under a name that no program uses."""
    path = str(Path(__file__).with_name("shim.py"))
    spec = importlib.util.spec_from_file_location("_mofang_shim", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shim = _load_shim()


class Born(BaseException):
    """Raised in a new worker: it leaves the standby's and the shim's frames behind."""

    def __init__(self, order: dict[str, Any]) -> None:
        super().__init__()
        self.order = order


class ForkingShim(shim.Shim):  # type: ignore[name-defined, misc]
    """A shim whose worker is its own copy instead of a fresh interpreter."""

    def _execute(self, writing: int) -> NoReturn:
        os.close(writing)
        raise Born(self.order)


# What the kernel shows of a process


def _region(first: int) -> tuple[int, int]:
    """Return start and end of the memory that /proc shows as command line (field 48) or environment (50) (proc(5))."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[first - 3]), int(fields[first - 2])


def _show(region: tuple[int, int], items: Sequence[bytes]) -> None:
    """Let /proc show these items instead; those at the end that find no room are left out."""
    start, end = region
    text = bytearray()
    for item in items:
        if len(text) + len(item) + 1 >= end - start:  # the last byte stays zero (proc(5))
            break
        text += item + b"\0"
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, bytes(text), len(text))


def _show_arguments(argv: Sequence[str]) -> None:
    _show(_region(48), [os.fsencode(word) for word in argv])


def _take_environment(environment: dict[str, str]) -> None:
    """Make this the process's environment, for itself and for who looks from outside: there, who it is comes first."""
    for name in list(os.environ):
        del os.environ[name]
    os.environ.update(environment)
    ours = ("MOFANG_", "RANK", "LOCAL_RANK")
    names = sorted(environment, key=lambda name: (not name.startswith(ours), name))
    _show(_region(50), [os.fsencode(f"{name}={environment[name]}") for name in names])


# Loading


def _place(entry: dict[str, Any]) -> str:
    """Return what a fresh interpreter would look for modules in first."""
    if entry["module"]:
        return os.getcwd()  # noqa: PTH109 - pathlib is not loaded by what starts in milliseconds
    return os.path.dirname(os.path.realpath(str(entry["target"])))  # noqa: PTH120 - as above


def _source_of(name: str) -> Path | None:
    """Return the source file of a module, or of a package's ``__main__``, without importing anything."""
    path: list[str] | None = None
    spec = None
    for part in name.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    if path:
        return Path(path[0]) / "__main__.py"
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _is_own(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) and "site-packages" not in path.parts


def _wanted(main: Path, folder: Path) -> list[str]:
    """Return the libraries that a program imports, itself or by modules of its own folder, as far as they are known."""
    found: dict[str, None] = {}
    waiting: list[Path] = [main]
    seen: set[Path] = set()
    while waiting and len(seen) < _MAX_SOURCES:
        path = waiting.pop()
        seen.add(path)
        try:
            source = path.read_text(encoding="utf-8", errors="replace")
            names = list(_imports(source))
        except (OSError, SyntaxError, ValueError):
            continue  # the worker will say it better
        found.update((name, None) for name in names if name.partition(".")[0] in _LIBRARIES)
        if _COMPILER.search(source) and any(name.partition(".")[0] == "torch" for name in names):
            found["torch._dynamo"] = None  # optimisers and wrappers load it when they are made
        own = (_source_of(name) for name in names if name.partition(".")[0] not in _LIBRARIES)
        waiting += [path for path in own if path is not None and path not in seen and _is_own(path, folder)]
    return list(found)


def _modules(entry: dict[str, Any]) -> list[str]:
    """Return what to load for a program: what its package's ``preload`` says, or the libraries that it imports."""
    target = entry["target"]
    if not entry["module"]:
        path = Path(target).absolute()
        return _wanted(path, path.parent)
    main = _source_of(target)
    if main is None:
        return []
    if main.name == "__main__.py" and main.with_name("preload.py").exists():
        return [f"{target}.preload"]
    return _wanted(main, Path(_place(entry)))


def _load(names: Sequence[str]) -> list[str]:
    """Import modules; return those that could be."""
    loaded = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # optional, or the worker will say it better
        loaded.append(name)
    return loaded


def _refusal() -> str | None:
    """Return why nothing may be forked from this process, or None.

    The threads of OpenBLAS end when the process forks for the first time, and come back where they are used.
    """
    copy = os.fork()
    if copy == 0:
        os._exit(0)
    os.waitpid(copy, 0)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - as above
    if threads > 1:
        return f"what was loaded has started {threads - 1} threads"
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - as above
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("/dev/nvidia-uvm"):  # noqa: PTH115 - as above
                return "what was loaded has opened a GPU"
    return None


def prepare(entry: dict[str, Any]) -> dict[str, Any]:
    """Load what a program needs; return what the agent is told: ``loaded``, and ``problem`` or null."""
    os.chdir(entry["cwd"])
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = _place(entry)
    sys.argv[:] = [entry["target"], *entry["arguments"]]  # a package's ``preload`` may want to see it
    names = _modules(entry)
    if any(name.partition(".")[0] == "torch" for name in names):
        names += _WITH_TORCH
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for GPUs must not open one
    loaded = _load(names)
    problem = _refusal() if loaded else "the program imports nothing that is worth loading ahead"
    gc.collect()
    gc.freeze()
    return {"loaded": loaded, "problem": problem}


# Serving


def _receive(channel: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Return the next message and its descriptor (-1: none); None once the agent is gone."""
    header, descriptors, _, _ = socket.recv_fds(channel, _HEADER.size, 1)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    text = b""
    while len(text) < length:
        piece = channel.recv(min(length - len(text), 1 << 20))
        if not piece:
            return None
        text += piece
    return json.loads(text), descriptors[0] if descriptors else -1


def serve(channel: socket.socket) -> NoReturn:
    """Prepare, and fork workers until the agent is gone.

    Raises:
        Born: in a worker.
    """
    hello = _receive(channel)
    if hello is None:
        os._exit(0)
    channel.sendall(json.dumps(prepare(hello[0])).encode() + b"\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes between this one and the shims are nobody's
    while True:
        received = _receive(channel)
        if received is None:
            os._exit(0)
        order, answer = received
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            channel.close()
            _bear(order, answer)
        os.close(answer)


def _bear(order: dict[str, Any], answer: int) -> NoReturn:
    """Let the agent adopt this process's child, a shim."""
    code = _FAILED
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _take_environment(order["environment"])
        _show_arguments(order["shim"])
        if os.fork():
            os._exit(0)
        os.setsid()
        os.dup2(answer, 1)
        os.close(answer)
        code = ForkingShim(order).run()
    except Born:
        raise
    except BaseException as error:
        os.write(2, f"the shim of {order['log']} failed: {error!r}\n".encode())
    os._exit(code)


# Being the worker


def _begin_afresh(argv: Sequence[str]) -> None:
    """Make of this copy what a fresh interpreter is: its signals, its own chance, its own ``__main__``."""
    _show_arguments(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.seed()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
    sys.orig_argv = list(argv)
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __loader__=importlib.machinery.BuiltinImporter, __annotations__={})
    sys.modules["__main__"] = main


def _run_file(path: str) -> None:
    name = path if os.path.isabs(path) else f"{os.getcwd()}/{path}"  # noqa: PTH109, PTH117 - as above
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        sys.stderr.write(f"{sys.executable}: can't open file {name!r}: [Errno {error.errno}] {error.strerror}\n")
        sys.exit(2)
    space = sys.modules["__main__"].__dict__
    space.update(__file__=name, __cached__=None, __loader__=importlib.machinery.SourceFileLoader("__main__", name))
    exec(compile(source, name, "exec", dont_inherit=True), space)  # noqa: S102 - the user's own program


def _report(error: BaseException) -> None:
    """Say what the interpreter says of an error that nobody caught, without the frames of this file."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    sys.excepthook(type(error), error.with_traceback(frames), frames)


def run_program(order: dict[str, Any]) -> None:
    """Run the program of an order as ``__main__``."""
    entry = order["entry"]
    _begin_afresh(order["argv"])
    first = "-m" if entry["module"] else entry["target"]
    sys.argv[:] = [first, *entry["arguments"]]
    try:
        if entry["module"]:
            runpy._run_module_as_main(entry["target"])  # type: ignore[attr-defined]
        else:
            _run_file(entry["target"])
    except KeyboardInterrupt as error:
        _report(error)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except SystemExit:
        raise
    except BaseException as error:
        _report(error)
        sys.exit(1)


def main() -> None:
    """Be a standby, and in its children's children the workers."""
    shim.libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        os._exit(0)
    _show_arguments(sys.orig_argv[:-1])  # without the padding
    with socket.socket(fileno=os.dup(0)) as channel:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        try:
            serve(channel)
        except Born as born:
            order = born.order
    run_program(order)


if __name__ == "__main__":
    main()
