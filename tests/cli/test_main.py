import json
import os
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import pytest

from mofang import errors
from mofang.cli import main as cli
from mofang.cli.main import COMMANDS, EXIT_CODES, main


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Put a command of the test's own in the place of ``ps``."""
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path))

    def install(execute):
        fake = SimpleNamespace(configure=lambda parser: parser.add_argument("-o", dest="output"), execute=execute)
        monkeypatch.setattr(cli, "import_module", lambda name: fake)

    return install


def raising(error):
    def execute(args):
        raise error

    return execute


def test_help_names_every_command_and_exit_code(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text and summary in text for name, summary in COMMANDS.items())
    assert all(str(code) in text for code in EXIT_CODES)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mofang ")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_says_what_it_does_and_gives_an_example(name, capsys):
    module = import_module(f"mofang.cli.{name}")
    assert callable(module.configure)
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " ".join(COMMANDS[name].split()) in text
    assert f"mofang {name}" in text.split("examples:")[1]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["rnu"], "there is no command 'rnu'", "did you mean 'run'?"),
        (["zzz"], "there is no command 'zzz'", "lists the commands"),
        (["--hepl"], "there is no option '--hepl'", "did you mean '--help'?"),
        (["ps", "--limti", "3"], "there is no option '--limti'", "did you mean '--limit'?"),
        (["ps", "--limit", "x"], "'x' is not a whole number above 0", "mofang ps --help"),
        (["ps", "-o", "jsn"], "invalid choice: 'jsn'", "did you mean 'json'?"),
        (["ps", "extra"], "'extra' is one word too many", "mofang ps --help"),
        (["stop"], "job", "mofang stop --help"),
        (["plan", "--dry-run", "x"], "there is no option '--dry-run'", "mofang plan --help"),
        (["run"], "give a job file", "mofang run --help"),
        (["run", "a.yaml", "--attach", "b"], "give a job file", "mofang run --help"),
    ],
)
def test_what_cannot_be_understood_is_one_line_with_a_hint(words, message, hint, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.SpecError, 2),
        (errors.InfeasibleError, 3),
        (errors.BackendError, 4),
        (errors.JobFailedError, 1),
        (errors.ConflictError, 1),
        (errors.StoreError, 1),
    ],
)
def test_every_error_ends_with_its_exit_code(kind, code, command, capsys):
    command(raising(kind("it is wrong\x1b[2J", hint="do this")))
    assert main(["ps"]) == code
    assert capsys.readouterr().err == "error: it is wrong [2J\nhint: do this\n"
    assert code in EXIT_CODES


@pytest.mark.parametrize("words", [["-o", "json"], ["-ojson"]])
def test_errors_are_json_where_json_was_asked_for(words, command, capsys):
    command(raising(errors.SpecError("wrong", hint="do", data={"line": 3})))
    assert main(["ps", *words]) == 2
    told = json.loads(capsys.readouterr().err)
    assert told == {"code": "spec", "message": "wrong", "hint": "do", "data": {"line": 3}, "exit_code": 2}


def test_an_option_that_does_not_exist_is_json_too(capsys):
    assert main(["ps", "-o", "json", "--nonsense"]) == 2
    assert json.loads(capsys.readouterr().err)["code"] == "usage"


def test_the_unexpected_is_one_line_and_its_traceback_goes_to_a_file(command, capsys, tmp_path):
    command(raising(ZeroDivisionError("oh")))
    assert main(["ps"]) == 1
    err = capsys.readouterr().err
    log = tmp_path / "errors.log"
    assert "Traceback" not in err
    assert err.startswith("error: unexpected ZeroDivisionError: oh")
    assert str(log) in err
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_the_unexpected_is_told_even_where_nothing_can_be_written(command, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    command(raising(ZeroDivisionError("oh")))
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "file"))
    assert main(["ps"]) == 1
    assert "MOFANG_DEBUG=1" in capsys.readouterr().err


def test_debugging_shows_the_traceback(command, capsys, monkeypatch):
    command(raising(ZeroDivisionError("oh")))
    monkeypatch.setenv("MOFANG_DEBUG", "1")
    assert main(["ps"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert main(["ps"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def run(*words, env=None, **options):
    """Run the real command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mofang", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | (env or {}),
        **options,
    )


def test_help_is_fast_and_imports_nothing_heavy():
    began = time.monotonic()
    done = run("--help")
    assert done.returncode == 0
    assert time.monotonic() - began < 3.0  # the figure is measured by benchmarks/cli_latency.py
    heavy = "torch numpy sqlalchemy pydantic rich matplotlib yaml argparse mofang.domain"
    code = (
        "import sys; from mofang.cli.main import main; main(['--help']); "
        f"print([name for name in {heavy.split()!r} if name in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stderr.strip() == "[]"


def test_ps_loads_neither_the_domain_nor_anything_heavy():
    heavy = "torch numpy sqlalchemy pydantic rich matplotlib yaml mofang.domain"
    code = f"import sys, mofang.cli.ps; print([name for name in {heavy.split()!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("word", ["schema", "--help"])
def test_a_reader_that_leaves_early_is_no_failure(word):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "mofang", word], stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_utf8_gets_question_marks_not_an_error():
    code = "import mofang.cli.main as m; m._help = lambda: '\\u9b54\\n'; raise SystemExit(m.main(['--help']))"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stdout) == (0, b"?\n")
