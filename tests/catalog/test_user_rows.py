"""Rows of the user: they extend and replace, and a wrong one says file, line, column and why."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.catalog.rows import read_rows
from mofang.errors import CatalogError

CHIP = "name,memory_gib,memory_bandwidth_gb_per_s,bf16_tflops,source\n"


def put(folder, path, text):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(text, bytes):
        file.write_bytes(text)
    else:
        file.write_text(text, encoding="utf-8")
    return file


def test_a_missing_folder_changes_nothing(tmp_path):
    assert Catalog.load(tmp_path / "nowhere").accelerators == Catalog.load().accelerators


def test_a_csv_row_extends_the_table(tmp_path):
    put(tmp_path, "accelerators/mine.csv", CHIP + "My NPU,64,1600,300,data sheet\n")
    chip = Catalog.load(tmp_path).accelerator("my-npu")
    assert (chip.memory_bytes, chip.memory_bandwidth, chip.source) == (64 * 2**30, 1.6e12, "data sheet")
    assert chip.peak_flops == {"bf16": 300e12}


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_yaml_row_extends_the_table(tmp_path, suffix):
    text = "name: My NPU\naliases: [npu, N1]\nmemory_gib: 64\nmemory_bandwidth_gb_per_s: 1_600\n"
    text = text.replace("1_600", "1600") + "fp16_tflops: 3e2\nsource: data sheet\n"
    put(tmp_path, f"accelerators/mine.{suffix}", text)
    assert Catalog.load(tmp_path).accelerator("N1").peak_flops == {"fp16": 300e12}


def test_a_list_of_yaml_rows(tmp_path):
    row = "- name: {0}\n  memory_gib: 8\n  memory_bandwidth_gb_per_s: 1\n  bf16_tflops: 1\n  source: me\n"
    put(tmp_path, "accelerators/mine.yaml", row.format("One") + row.format("Two"))
    catalog = Catalog.load(tmp_path)
    assert [catalog.accelerator(name).name for name in ("one", "two")] == ["One", "Two"]


def test_a_row_replaces_by_name_and_keeps_the_aliases(tmp_path):
    put(tmp_path, "accelerators/mine.csv", CHIP + "nvidia h100 sxm 80gb,80,3000,700,measured\n")
    catalog = Catalog.load(tmp_path)
    assert catalog.accelerator("H100").source == "measured"
    assert "H100" in catalog.accelerator("H100").aliases
    assert len(catalog.accelerators) == len(Catalog.load().accelerators)


def test_a_users_alias_wins_over_a_packaged_one(tmp_path):
    text = CHIP.replace("name,", "name,aliases,") + "Other,H100; O1,80,3000,700,me\n"
    put(tmp_path, "accelerators/mine.csv", text)
    assert Catalog.load(tmp_path).accelerator("H100").name == "Other"


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    put(tmp_path, "accelerators/a.csv", CHIP + "X,1,1,1,first\n")
    put(tmp_path, "accelerators/b.csv", CHIP + "x,1,1,1,second\n")
    assert Catalog.load(tmp_path).accelerator("X").source == "second"


def test_a_server_may_name_its_chip_by_an_alias(tmp_path):
    put(tmp_path, "servers/mine.csv", "name,accelerator,accelerators,source\nBox,h100,4,me\n")
    assert Catalog.load(tmp_path).server("box").accelerator == "NVIDIA H100-SXM-80GB"


def test_a_model_row(tmp_path):
    text = "name: tiny\nlayers: 2\nhidden: 64\nheads: 4\nffn: 256\nvocab: 1k\nmax_sequence: 128\nsource: me\n"
    put(tmp_path, "models/tiny.yaml", text)
    model = Catalog.load(tmp_path).model("tiny")
    assert (model.kv_heads, model.head_dim, model.vocab) == (4, 16, 1000)


def test_other_files_are_left_alone(tmp_path):
    put(tmp_path, "accelerators/README.md", "not a table")
    put(tmp_path, "accelerators/.hidden.csv", "not a table")
    assert Catalog.load(tmp_path).accelerators


BAD = {
    "unknown column": ("a.csv", "name,memroy_gib\nX,1\n", "line 2, column memroy_gib", "no such column", "memory_gib"),
    "not a number": ("a.csv", CHIP + "X,lots,1,1,me\n", "line 2, column memory_gib", "'lots' is not a number", ""),
    "negative": ("a.csv", CHIP + "X,-4,1,1,me\n", "line 2, column memory_gib", "not negative", ""),
    "infinite": ("a.csv", CHIP + "X,1e999,1,1,me\n", "line 2, column memory_gib", "finite", ""),
    "missing value": ("a.csv", CHIP + "X,,1,1,me\n", "line 2, column memory_gib", "is required", ""),
    "missing source": ("a.csv", CHIP + "X,1,1,1,\n", "line 2, column source", "is required", ""),
    "later line": ("a.csv", CHIP + "X,1,1,1,me\n\n\nY,1,?,1,me\n", "line 5, column memory_bandwidth", "'?'", ""),
    "after a long cell": ("a.csv", CHIP + 'X,1,1,1,"a\nb"\nY,1,?,1,me\n', "line 4, column memory_band", "'?'", ""),
    "too many values": ("a.csv", CHIP + "X,1,1,1,me,too\n", "line 2", "6 values for 5 columns", "quotes"),
    "duplicate": ("a.csv", CHIP + "X,1,1,1,me\nx,1,1,1,me\n", "line 3, column name", "row of line 2", "own"),
    "duplicate column": ("a.csv", "name,name\nX,X\n", "line 1, column name", "named twice", ""),
    "nameless column": ("a.csv", "name,,source\nX,1,me\n", "line 1", "column 2 has no name", ""),
    "open quote": ("a.csv", CHIP + '"X,1,1,1,me\n', "line", "not CSV", ""),
    "empty csv": ("a.csv", "", "line 1", "empty", "first line"),
    "not utf-8": ("a.csv", CHIP.encode() + b"X\xff,1,1,1,me\n", "line 2", "not UTF-8", "UTF-8"),
    "nul byte": ("a.csv", CHIP + "X\0,1,1,1,me\n", "line 2", "", ""),
    "control character": ("a.csv", CHIP + "X\x1b[2J,1,1,1,me\n", "line 2, column name", "name", ""),
    "name of signs": ("a.csv", CHIP + "???,1,1,1,me\n", "line 2, column name", "letter or digit", ""),
    "no peak": ("a.csv", CHIP + "X,1,1,,me\n", "line 2", "no peak", "bf16_tflops"),
    "no domain": (
        "a.csv",
        CHIP.replace("\n", ",scaleup_both_ways_gb_per_s\n") + "X,1,1,1,me,900\n",
        "line 2",
        "scaleup_domain",
        "8 in most",
    ),
    "bad yaml": ("a.yaml", "name: [X\n", "line", "not YAML", ""),
    "yaml value": ("a.yaml", "name: X\nmemory_gib: lots\n", "line 2, column memory_gib", "'lots'", ""),
    "yaml key twice": ("a.yaml", "name: X\nyear: 1\nname: Y\n", "line 3, column name", "given twice", ""),
    "yaml nesting": ("a.yaml", "name: X\nyear: {a: 1}\n", "line 2, column year", "a value or a list", ""),
    "yaml text": ("a.yaml", "hello\n", "line 1", "not a row", "name:"),
    "yaml empty": ("a.yaml", "# nothing\n", "line 1", "empty", ""),
    "yaml two documents": ("a.yaml", "name: X\n---\nname: Y\n", "line", "not YAML", ""),
    "yaml tag": ("a.yaml", "name: !!python/object/apply:os.system [id]\n", "line 1, column", "required", ""),
}


@pytest.mark.parametrize(("name", "text", "where", "why", "hint"), BAD.values(), ids=BAD)
def test_a_bad_row_says_file_line_column_and_why(tmp_path, name, text, where, why, hint):
    file = put(tmp_path, f"accelerators/{name}", text)
    with pytest.raises(CatalogError) as caught:
        _ = Catalog.load(tmp_path).accelerators
    message = caught.value.message
    assert message.startswith(str(file))
    assert "\n" not in message
    assert where in message
    assert why in message
    assert hint in caught.value.hint


MODEL = "name,layers,hidden,heads,ffn,vocab,max_sequence,source"


@pytest.mark.parametrize(
    ("columns", "values", "why"),
    [
        ("", "", "hidden must be a multiple of heads: 64 / 5"),
        (",kv_heads,head_dim", ",3,16", "heads must be a multiple of kv_heads"),
        (",head_dim,top_k", ",16,2", "top_k is given, but not num_experts"),
        (",head_dim,num_experts", ",16,8", "num_experts is given, but not top_k"),
        (",head_dim,num_experts,top_k,expert_ffn", ",16,8,9,64", "9 is not in 1..8"),
        (",head_dim,kv_lora_rank", ",16,8", "kv_lora_rank is given, but not qk_nope_head_dim"),
        (",head_dim,qk_norm", ",16,maybe", "'maybe' is not yes or no"),
        (",head_dim,norms_per_layer", ",16," + "9" * 5000, "is not a whole number"),
    ],
)
def test_a_model_that_does_not_add_up_is_refused(tmp_path, columns, values, why):
    file = put(tmp_path, "models/mine.csv", f"{MODEL}{columns}\nX,2,64,5,256,100,64,me{values}\n")
    with pytest.raises(CatalogError) as caught:
        Catalog.load(tmp_path).model("X")
    assert caught.value.message.startswith(f"{file}, line 2")
    assert why in caught.value.message


def test_a_server_without_chips_is_refused(tmp_path):
    put(tmp_path, "servers/mine.csv", "name,accelerator,accelerators,source\nBox,h100,0,me\n")
    with pytest.raises(CatalogError, match="accelerators must be at least 1, not 0"):
        Catalog.load(tmp_path).server("box")


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "accelerators" / "x.csv").mkdir(parents=True)
    with pytest.raises(CatalogError, match="not a file"):
        _ = Catalog.load(tmp_path).accelerators


def test_a_wrong_table_does_not_spoil_the_others(tmp_path):
    put(tmp_path, "servers/mine.csv", "nonsense\n")
    assert Catalog.load(tmp_path).accelerator("H100")


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200), suffix=st.sampled_from(["csv", "yaml"]))
def test_no_text_is_more_than_a_catalogue_error(tmp_path_factory, text, suffix):
    file = tmp_path_factory.mktemp("rows") / f"x.{suffix}"
    file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        told = [str(row.file) for row in read_rows(file)]
    except CatalogError as error:
        told = [error.message]
    assert all(text.startswith(str(file)) for text in told)
