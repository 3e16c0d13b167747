"""``mofang catalog``: tables that fit, data for programs, one clear line for what is wrong."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from mofang.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def run(capsys, *words):
    code = main(["catalog", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("table", "name"),
    [("accelerators", "NVIDIA H100-SXM-80GB"), ("servers", "NVIDIA DGX H100"), ("models", "mixtral-8x7b")],
)
def test_tables_fit_the_terminal_and_agree_with_json(capsys, table, name):
    code, text, _ = run(capsys, table)
    assert code == 0
    assert name in text
    assert max(map(len, text.splitlines())) <= 100
    code, text, _ = run(capsys, table, "-o", "json")
    rows = json.loads(text)
    assert code == 0
    assert name in {row["name"] for row in rows}


def test_a_model_in_json_has_its_counts(capsys):
    _, text, _ = run(capsys, "show", "mixtral-8x7b", "-o", "json")
    data = json.loads(text)
    assert data["params"] == data["published_params"] == 46_702_792_704
    assert data["architecture"]["moe"]["num_experts"] == 8


def test_yaml(capsys):
    _, text, _ = run(capsys, "show", "H100", "-o", "yaml")
    assert yaml.safe_load(text)["memory_bytes"] == 80 * 2**30


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("H100", "NVIDIA H100-SXM-80GB"),
        ("h100", "989 TFLOP/s"),
        ("h100", "80 GiB"),
        ("DGX-H100", "NVIDIA DGX H100"),
        ("llama-3-8b", "8030261248"),
    ],
)
def test_show_looks_in_all_tables(capsys, name, says):
    code, text, _ = run(capsys, "show", name)
    assert code == 0
    assert says in text


def test_show_reads_a_config(capsys, tmp_path):
    config = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 50257}))
    code, text, _ = run(capsys, "show", str(tmp_path))
    assert code == 0
    assert "124439808" in text
    _, text, _ = run(capsys, "show", str(tmp_path / "config.json"), "-o", "json")
    assert json.loads(text)["params"] == 124_439_808


def test_a_row_of_ones_own_is_listed(capsys, home):
    (home / "catalog" / "accelerators").mkdir(parents=True)
    (home / "catalog" / "accelerators" / "npu.yaml").write_text(
        "name: My NPU\nmemory_gib: 64\nmemory_bandwidth_gb_per_s: 1600\nbf16_tflops: 300\nsource: me\n"
    )
    assert "My NPU" in run(capsys, "accelerators")[1]
    assert "300 TFLOP/s" in run(capsys, "show", "my-npu")[1]


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["show"], "show what?", "mofang catalog show H100"),
        (["show", "h1000"], "has no 'h1000'", "did you mean 'H100'"),
        (["show", "zzzzzz"], "has no 'zzzzzz'", "mofang catalog models"),
        (["show", "gone.json"], "gone.json: cannot be read", "config.json"),
        (["models", "gpt2"], "'gpt2' is one word too many", "mofang catalog show gpt2"),
        (["modls"], "invalid choice", "did you mean 'models'?"),
        ([], "required", "--help"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(capsys, words, says, hint):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert says in err
    assert hint in err
    assert len(err.splitlines()) == 2
    assert "Traceback" not in err


def test_a_wrong_row_is_told_with_its_place(capsys, home):
    (home / "catalog" / "models").mkdir(parents=True)
    file = home / "catalog" / "models" / "mine.csv"
    file.write_text("name,layers\nX,many\n")
    code, _, err = run(capsys, "models")
    assert code == 2
    assert f"{file}, line 2, column layers: 'many' is not a whole number" in err


def test_the_tables_import_no_heavy_library():
    program = (
        "import sys; from mofang.cli.main import main; code = main(['catalog', 'models']); "
        "heavy = {'torch', 'numpy', 'pydantic', 'sqlalchemy', 'rich', 'yaml', 'matplotlib'} & set(sys.modules); "
        "sys.exit(code or ' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
