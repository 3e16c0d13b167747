"""Commands against a controller's twin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import mofang
from mofang.cli import jobfile, plan, run
from mofang.cli.main import main
from mofang.cli.progress import Progress, absorb
from mofang.cli.screens import PlainScreen
from mofang.cli.shipped import example
from mofang.domain.events import EventKind
from mofang.domain.job import JobState
from mofang.domain.reasons import Reason
from mofang.domain.scenario import Command, Environment, Scenario, Secret
from mofang.errors import BackendError, NotFoundError, SpecError
from mofang.spec.job_file import JobFile

JOB = "7f3a9c12"


def row(state: str, number: int = 0, **fields: object) -> dict:
    times = {"submitted_at": 1_790_000_000.0, "started_at": 1_790_000_010.0, "ended_at": None}
    shown = {"id": f"{number:08x}", "name": f"job-{number}", "state": state, "reason": None, "message": ""}
    return {**shown, "devices": 2, "step": 3, "steps": 9, "loss": 2.5, **times, **fields}


@pytest.fixture
def file(monkeypatch):
    """Put a scenario in the place of a job file."""
    scenario = Scenario(name="toy", task=Command(argv=("python", "train.py"), workers=2))
    found = {"file": JobFile(scenario=scenario)}

    def load(path, sets):
        return found["file"]

    monkeypatch.setattr(run, "load", load)
    monkeypatch.setattr(plan, "load", load)
    return found


def test_ps_lists_live_jobs_and_the_newest_that_ended(client, capsys):
    client.rows = [row("running", 1), row("waiting", 2, reason="reserved", message="held for job-9")]
    client.rows += [row("succeeded", number, ended_at=1_790_000_070.0) for number in range(3, 40)]
    assert main(["ps"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["id", "name", "state", "devices", "step", "loss", "submitted", "ran", "why"]
    assert len(lines) == 12
    assert "held for job-9" in lines[1]
    assert lines[2].split()[1:] == ["job-3", "succeeded", "2", "3/9", "2.500", "1m", "40s", "ago", "1m", "00s"]
    main(["ps", "-a"])
    assert len(capsys.readouterr().out.splitlines()) == 40


def test_ps_filters_by_state_and_speaks_json(client, capsys):
    client.rows = [row("running", 1), row("failed", 2, loss=None, started_at=None, step=None)]
    assert main(["ps", "--state", "failed", "-o", "json"]) == 0
    assert [found["id"] for found in json.loads(capsys.readouterr().out)] == ["00000002"]
    assert main(["ps", "--state", "failed"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[3:6] == ["2", "-", "-"]
    assert main(["ps", "--state", "fialed"]) == 2
    assert "did you mean 'failed'?" in capsys.readouterr().err


def test_ps_without_jobs_says_what_to_do(client, capsys):
    assert main(["ps"]) == 0
    assert "mofang demo" in capsys.readouterr().out


def test_stop_goes_on_after_a_job_that_is_not_there(client, capsys):
    assert main(["stop", "nope", JOB]) == 2
    out, err = capsys.readouterr()
    assert out == f"{JOB} stopping\n"
    assert "there is no job 'nope'" in err
    assert client.stopped == [JOB]


def test_logs_print_everything(client, capsys):
    client.logs_value[None, None] = "first line\nsecond line\n"
    assert main(["logs", JOB]) == 0
    assert capsys.readouterr().out == "first line\nsecond line\n"


def test_logs_are_followed_over_a_restart(client, capsys):
    client.page = 1  # news comes one by one
    client.logs_value = {(1, 1): "before the fault\n", (1, 2): "after the fault\n"}
    assert main(["logs", "-f", JOB]) == 0
    out, err = capsys.readouterr()
    assert out == "before the fault\nafter the fault\n"
    assert "attempt 1, generation 2" in err


def test_logs_that_are_no_longer_followed_say_how_to_come_back(client, capsys):
    client.failures = [KeyboardInterrupt()]
    assert main(["logs", "-f", JOB]) == 130
    assert f"mofang logs -f {JOB}" in capsys.readouterr().err


def test_plan_prints_ranked_plans_and_what_was_rejected(client, file, capsys):
    assert main(["plan", "job.yaml", "-n", "3"]) == 0
    out = capsys.readouterr().out
    assert "27.3k" in out
    assert "21.6..34.1k" in out  # 27.3k tokens/s x 150 ms, over 190 and over 120 ms
    assert out.index("cpu:2") < out.index("cpu:1")
    assert client.planned[0][1:] == (None, 3)


def test_plan_for_described_hardware_asks_for_just_that(client, file, capsys):
    assert main(["plan", "job.yaml", "--hardware", "H100:8..64", "--hardware", "A100:8", "--explain"]) == 0
    assert [str(request) for request in client.planned[0][1]] == ["H100:8..64", "A100:8"]
    out = capsys.readouterr().out
    assert "measured on this host" in out
    assert "communication" in out
    assert main(["plan", "job.yaml", "--hardware", ":8"]) == 2
    assert "device request" in capsys.readouterr().err


def test_the_best_plan_as_yaml_runs_as_it_stands(client, file, capsys, tmp_path):
    assert main(["plan", "job.yaml", "-o", "yaml"]) == 0
    text = capsys.readouterr().out
    saved = tmp_path / "best.yaml"
    saved.write_text(text)
    assert yaml.safe_load(text)["kind"] == "plan"
    loaded = jobfile.load(str(saved), ())
    assert loaded.plans == client.result.plans[:1]
    assert loaded.scenario == file["file"].scenario


def test_no_feasible_plan_ends_with_3_and_every_reason(client, file, capsys):
    client.infeasible()
    assert main(["plan", "job.yaml"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "it does not fit in memory: 91 GB needed, 8 GB there" in err
    assert err.splitlines()[-1] == "hint: a smaller model"
    assert main(["plan", "job.yaml", "-o", "json"]) == 3
    told = json.loads(capsys.readouterr().err)
    assert [found["code"] for found in told["data"]["rejections"]] == ["memory", "worse"]


def test_run_follows_a_job_to_its_end(client, file, capsys):
    assert main(["run", "job.yaml", "--yes", "--key", "k", "--name", "mine"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("toy (7f3a9c12): succeeded after 11s, 4 steps, loss 4.600, validation loss 2.500\n")
    assert "worker 1: SIGKILL at step 2: next step after 4s, from the checkpoint of step 1" in out
    assert "1 step made again" in out
    for words in (
        "fault on purpose at step 2: worker 1, SIGKILL",
        "worker 1 was killed by signal 9",
        "resumed from the checkpoint of step 1",
        "stepping again 4s after the fault",
        "step 3: validation loss 2.500",
        "step 4/4: loss 4.600, 34.1k tokens/s, MFU 41 %",
    ):
        assert words in err
    (submitted,) = client.submissions
    assert (submitted.key, submitted.scenario.name, submitted.plans) == ("k", "mine", client.result.plans)


def test_run_prints_json_for_programs(client, file, capsys):
    assert main(["run", "job.yaml", "-y", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["job_id"], found["state"], found["steps"], found["redone_steps"]) == (JOB, "succeeded", 4, 1)
    assert found["recoveries"][0]["seconds"] == 4.0


def test_run_detached_prints_the_id_alone(client, file, capsys):
    assert main(["run", "job.yaml", "-y", "-d"]) == 0
    assert capsys.readouterr().out == f"{JOB}\n"


def test_a_dry_run_starts_nothing(client, file, capsys):
    assert main(["run", "job.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == '# attempt-0001/launch.json\n{"job": 1}\n\n'
    assert client.submissions == []


def test_a_job_that_fails_ends_with_1_and_where_to_look(client, file, capsys):
    client.job_value = replace(client.job_value, state=JobState.FAILED, reason=Reason.DISK_FULL)
    client.logs_value[None, None] = "OSError: no space left\n" * 3
    assert main(["run", "job.yaml", "-y"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert "--- the last lines of worker 1" in err
    assert err[-2] == f"error: toy ({JOB}) failed: the disk is full"
    assert f"mofang logs {JOB}" in err[-1]


def test_ctrl_c_detaches_and_says_how_to_come_back(client, file, capsys):
    client.failures = [KeyboardInterrupt()]
    assert main(["run", "job.yaml", "-y"]) == 130
    err = capsys.readouterr().err
    assert f"mofang run --attach {JOB}" in err
    assert f"mofang stop {JOB}" in err
    assert main(["run", "--attach", JOB]) == 0


def test_no_plan_no_job(client, file, capsys):
    client.infeasible()
    assert main(["run", "job.yaml", "-y"]) == 3
    assert client.submissions == []


@pytest.mark.parametrize(("answer", "jobs"), [("\n", 1), ("y\n", 1), ("n\n", 0), ("", 0)])
def test_a_person_is_asked_first(client, file, monkeypatch, answer, jobs):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    assert main(["run", "job.yaml", "-d"]) == 0
    assert len(client.submissions) == jobs


def test_secrets_are_read_here_and_shown_nowhere(client, file, capsys, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("from-a-file\n")
    secrets = (
        Secret(name="A", source="env", reference="MY_TOKEN"),
        Secret(name="B", source="file", reference=str(tmp_path / "token")),
    )
    scenario = replace(file["file"].scenario, environment=Environment(secrets=secrets))
    file["file"] = JobFile(scenario=scenario)
    monkeypatch.setenv("MY_TOKEN", "from-the-environment")
    assert main(["run", "job.yaml", "-y"]) == 0
    assert client.submissions[0].secrets == {"A": "from-the-environment", "B": "from-a-file"}
    out, err = capsys.readouterr()
    assert "from-" not in out + err


@pytest.mark.parametrize("source", ["env", "file"])
def test_a_secret_that_is_not_there_stops_the_run(client, file, capsys, source):
    secrets = (Secret(name="A", source=source, reference="/nowhere/MY_TOKEN"),)
    file["file"] = JobFile(scenario=replace(file["file"].scenario, environment=Environment(secrets=secrets)))
    assert main(["run", "job.yaml", "-y"]) == 2
    assert "secret A" in capsys.readouterr().err
    assert client.submissions == []


def test_a_saved_plan_is_not_planned_again(client, file):
    file["file"] = JobFile(scenario=file["file"].scenario, plans=client.result.plans[:1])
    assert main(["run", "best.yaml", "-y", "-d"]) == 0
    assert client.planned == []
    assert client.submissions[0].plans == client.result.plans[:1]


def test_explain_tells_why_and_what_happened(client, capsys):
    client.job_value = replace(client.job_value, state=JobState.WAITING, reason=Reason.WAITING_FOR_DEVICES)
    client.explained = {
        "reason": "waiting-for-devices",
        "position": 2,
        "blockers": [{"job": "91bc", "devices": 2}],
        "attempts": [{"number": 1, "plan_index": 1, "started_at": 1_790_000_000.0, "state": "ended", "reason": "hang"}],
    }
    assert main(["explain", "toy"]) == 0
    out = capsys.readouterr().out
    assert "waiting: its devices are in use" in out
    assert "place in the queue: 2" in out
    assert "91bc" in out
    assert "it made no progress for longer than allowed" in out
    assert "2 *" in out
    assert "fault on purpose at step 2" in out
    assert main(["explain", "toy", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["position"] == 2


def test_report_prints_where_it_is(client, capsys, tmp_path):
    assert main(["report", JOB, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/report.html\n"
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(["report", "toy"]) == 0
    assert Path(capsys.readouterr().out.strip()).parent == tmp_path / "home" / "runs" / JOB / "report"


def test_a_job_that_is_not_there_is_one_line(client, capsys):
    for words in (["report", "x"], ["explain", "x"], ["run", "--attach", "x"]):
        assert main(words) == 2
        assert "there is no job 'x'" in capsys.readouterr().err


def test_the_demonstration_ends_with_a_sample_and_a_report(client, file, capsys):
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "    def f():\n        return 1 [31m\n" in out
    page = Path(out.splitlines()[-1].removeprefix("report: "))
    assert page.name == "report.html"
    assert page.is_file()


def test_the_demonstration_is_found_in_a_checkout_and_in_an_installation(monkeypatch, tmp_path):
    assert example("code-gpt/job.yaml").is_file()
    package = tmp_path / "lib" / "site" / "mofang"
    (package / "examples" / "code-gpt").mkdir(parents=True)
    (package / "examples" / "code-gpt" / "job.yaml").write_text("kind: pretrain\n")
    monkeypatch.setattr(mofang, "__file__", str(package / "__init__.py"))
    assert example("code-gpt/job.yaml").is_relative_to(package)
    with pytest.raises(NotFoundError):
        example("nothing.yaml")


def test_a_job_file_that_is_not_there_is_one_line(client, capsys):
    assert main(["plan", "/nowhere/job.yaml"]) == 2
    assert "/nowhere/job.yaml" in capsys.readouterr().err
    with pytest.raises(SpecError):
        jobfile.load("/nowhere/job.yaml", ())


def test_a_follower_survives_a_controller_that_goes_away(client, file, capsys):
    client.failures = [BackendError("gone"), BackendError("gone")]
    assert main(["run", "job.yaml", "-y"]) == 0
    assert capsys.readouterr().err.count("the controller does not answer") == 1


def test_a_follower_gives_up_on_a_controller_that_stays_away(client, file, capsys):
    client.failures = [BackendError("gone")] * 1000
    assert main(["run", "job.yaml", "-y"]) == 4
    assert "gone" in capsys.readouterr().err


def test_every_kind_of_event_can_be_told(client):
    event = client.events_value[0]
    for kind in EventKind:
        absorb(Progress(steps=None), replace(event, kind=kind, data={}))


def test_plain_lines_come_now_and_then(capsys):
    screen, progress = PlainScreen(), Progress(steps=100, phase="train", step_time_s=0.5)
    for second in range(20):
        screen.show(replace(progress, step=second, time=float(second)))
        screen.show(replace(progress, step=second, time=float(second)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 0/100", "step 5/100", "step 10/100", "step 15/100"]
    assert lines[1].endswith("47.5s left")


def test_a_terminal_gets_a_live_bar(client, file, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["run", "job.yaml", "-y"]) == 0
    err = capsys.readouterr().err
    assert "stepping again 4s after the fault" in err
    assert "4/4" in err
