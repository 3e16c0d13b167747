"""Which failures are alike, what is said of them, and when to give up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.reasons import Reason
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.agent.failures import End, Failure, Restart, describe_exit, last_words, signature, verdict


def _failure(**changes) -> Failure:
    fields = {
        "generation": 1,
        "reason": Reason.WORKER_FAILED,
        "message": "rank 0 exited with code 1: ValueError: bad",
        "signature": "s",
        "step": 12,
        "seconds": 30.0,
    }
    return Failure(**{**fields, **changes})


def test_last_exception_wins_over_later_noise(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "step 1\nTraceback (most recent call last):\n  File x\n"
        "[rank1]: ValueError: token 3 is missing\n[W] destroying process group\n"
    )
    assert last_words(log).words == "ValueError: token 3 is missing"


def test_without_an_exception_the_last_line_counts(tmp_path):
    log = tmp_path / "log"
    log.write_text("start\nbash: line 1: foo: not found\n\n")
    assert last_words(log).words == "bash: line 1: foo: not found"
    assert last_words(tmp_path / "none").words == ""


def test_secrets_are_blotted_out(tmp_path):
    log = tmp_path / "log"
    log.write_text("KeyError: hunter2\n")
    assert last_words(log, ["hunter2", ""]).words == "KeyError: ***"


def test_signature_ignores_numbers_and_rank():
    one = signature(Reason.WORKER_FAILED, 1, None, "RuntimeError: port 4711 at 0x7f00ab")
    other = signature(Reason.WORKER_FAILED, 1, None, "RuntimeError: port 815 at 0x7fffff")
    assert one == other
    assert one != signature(Reason.WORKER_FAILED, 1, None, "RuntimeError: other")
    assert one != signature(Reason.WORKER_FAILED, 2, None, "RuntimeError: port 4711 at 0x7f00ab")


def test_message_names_rank_and_signal():
    assert describe_exit(3, None, 9, "") == "rank 3 was killed by SIGKILL"
    assert describe_exit(0, 2, None, "usage: x") == "rank 0 exited with code 2: usage: x"


def test_three_alike_in_a_row_end_it():
    alike = [_failure(generation=number) for number in (1, 2, 3)]
    policy = RestartPolicy(same_failure=3)
    assert isinstance(verdict(alike[:2], policy), Restart)
    end = verdict(alike, policy)
    assert isinstance(end, End)
    assert end.reason is Reason.REPEATED_FAILURE
    assert end.message == "failed the same way at step 12 3 times: rank 0 exited with code 1: ValueError: bad"
    interrupted = [alike[0], _failure(step=13), alike[1], alike[2]]
    assert isinstance(verdict(interrupted, policy), Restart)


def test_kills_from_outside_without_a_known_step_take_longer_to_end_it():
    killed = {"reason": Reason.WORKER_KILLED, "signature": signature(Reason.WORKER_KILLED, None, 9, "")}
    kills = [_failure(**killed, step=None) for _ in range(15)]
    assert isinstance(verdict(kills[:14], RestartPolicy()), Restart)
    assert isinstance(verdict(kills, RestartPolicy()), End)
    kills = [_failure(**killed, step=4) for _ in range(3)]
    assert isinstance(verdict(kills, RestartPolicy()), End)
    crashes = [
        _failure(reason=Reason.WORKER_KILLED, step=None, signature=signature(Reason.WORKER_KILLED, None, 11, ""))
        for _ in range(3)
    ]
    assert isinstance(verdict(crashes, RestartPolicy()), End)


def test_memory_that_runs_out_three_times_ends_it():
    kills = [_failure(reason=Reason.MEMORY, step=None) for _ in range(3)]
    assert isinstance(verdict(kills, RestartPolicy()), End)


def test_what_cannot_get_better_ends_at_once():
    end = verdict([_failure(reason=Reason.COMMAND_NOT_FOUND)], RestartPolicy())
    assert isinstance(end, End)
    assert end.reason is Reason.COMMAND_NOT_FOUND


def test_lost_nodes_say_nothing_about_the_program():
    lost = [_failure(reason=Reason.NODE_LOST) for _ in range(5)]
    assert isinstance(verdict(lost, RestartPolicy()), Restart)


@settings(deadline=None, max_examples=50)
@given(limit=st.integers(0, 6), count=st.integers(1, 8))
def test_restarts_never_exceed_their_limit(limit, count):
    failures = [_failure(step=number) for number in range(count)]
    decision = verdict(failures, RestartPolicy(max_restarts=limit))
    assert isinstance(decision, End) == (count > limit)


@settings(deadline=None, max_examples=50)
@given(seconds=st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_only_repeated_short_generations_wait_and_never_long(seconds):
    failures = [_failure(step=number, seconds=value) for number, value in enumerate(seconds)]
    decision = verdict(failures, RestartPolicy())
    assert isinstance(decision, Restart)
    assert 0.0 <= decision.delay_s <= 5.0
    assert (decision.delay_s == 0.0) == (len(seconds) < 2 or seconds[-1] >= 5.0 or seconds[-2] >= 5.0)
