"""The agent reads what the codec writes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.codec import encode
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.scenario import Environment, Mount, RestartPolicy, Secret, WorkdirMode
from mofang.errors import BackendError
from mofang.recovery.agent.launchfile import read_launch

TEXT = st.text(max_size=8)
ENVIRONMENTS = st.builds(
    Environment,
    venv=st.none() | TEXT,
    modules=st.lists(TEXT, max_size=2).map(tuple),
    workdir_mode=st.sampled_from(WorkdirMode),
    variables=st.dictionaries(TEXT, TEXT, max_size=2),
    secrets=st.lists(
        st.builds(Secret, name=TEXT, source=st.sampled_from(["env", "file"]), reference=TEXT), max_size=2
    ).map(tuple),
    mounts=st.lists(st.builds(Mount, target=TEXT, source=TEXT), max_size=2).map(tuple),
)
SPECS = st.builds(
    LaunchSpec,
    job_id=TEXT,
    attempt=st.integers(1, 9),
    fence=st.integers(1, 99),
    run_dir=TEXT,
    nodes=st.lists(
        st.builds(
            NodeLaunch,
            node=TEXT,
            address=TEXT,
            prefix=st.lists(TEXT, max_size=2).map(tuple),
            accelerator=TEXT,
            device_indices=st.lists(st.integers(0, 9), max_size=3).map(tuple),
            workers=st.integers(1, 4),
        ),
        max_size=2,
    ).map(tuple),
    argv=st.lists(TEXT, max_size=3).map(tuple),
    env=st.dictionaries(TEXT, TEXT, max_size=2),
    files=st.dictionaries(TEXT, TEXT, max_size=2),
    secrets_file=st.none() | TEXT,
    environment=ENVIRONMENTS,
    workdir=st.none() | TEXT,
    restart=st.builds(RestartPolicy, max_restarts=st.none() | st.integers(0, 5)),
    wake=st.lists(TEXT, max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=50)
@given(spec=SPECS)
def test_every_launch_file_reads_back(tmp_path_factory, spec):
    path = tmp_path_factory.mktemp("launch") / "launch.json"
    path.write_text(encode(spec))
    assert read_launch(path) == spec


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"job_id": 1}', "null"])
def test_anything_else_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "launch.json"
    path.write_text(text)
    with pytest.raises(BackendError, match="the launch file is not one"):
        read_launch(path)
    with pytest.raises(BackendError, match="cannot be read"):
        read_launch(tmp_path / "missing")
