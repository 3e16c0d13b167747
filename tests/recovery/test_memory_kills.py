"""Kills for memory are counted in one's own cgroup, in both versions, and on the machine only where that is unknown."""

from __future__ import annotations

from pathlib import Path

from mofang.recovery.memory_kills import count_memory_kills


def _put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _machine(tmp_path: Path, cgroup: str) -> tuple[Path, Path]:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    _put(proc, vmstat="nr_free_pages 7\noom_kill 9\n", self__cgroup=cgroup)
    return proc, sys


def test_the_second_version_counts_in_memory_events(tmp_path):
    proc, sys = _machine(tmp_path, "0::/jobs/one\n")
    _put(sys, fs__cgroup__jobs__one__memory_dot_events="low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\noom_group_kill 0\n")
    assert count_memory_kills(proc, sys) == 2


def test_the_first_version_counts_in_oom_control(tmp_path):
    proc, sys = _machine(tmp_path, "5:devices:/x\n4:cpu,memory:/jobs/one\n0::/\n")
    text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
    _put(sys, fs__cgroup__memory__jobs__one__memory_dot_oom_control=text)
    assert count_memory_kills(proc, sys) == 3


def test_a_container_whose_path_is_the_hosts_is_found_at_its_root(tmp_path):
    proc, sys = _machine(tmp_path, "0::/system.slice/docker-1.scope\n")
    _put(sys, fs__cgroup__memory_dot_events="oom_kill 1\n")
    assert count_memory_kills(proc, sys) == 1


def test_the_machine_counts_where_no_cgroup_does(tmp_path):
    proc, sys = _machine(tmp_path, "0::/\n")
    assert count_memory_kills(proc, sys) == 9
    assert count_memory_kills(tmp_path / "none", sys) == 0


def test_an_old_kernel_that_does_not_count_kills_says_none(tmp_path):
    proc, sys = _machine(tmp_path, "4:memory:/a\n")
    _put(sys, fs__cgroup__memory__a__memory_dot_oom_control="oom_kill_disable 0\nunder_oom 0\n")
    assert count_memory_kills(proc, sys) == 9
