"""Published ``config.json`` files, by their facts, against the counted tensors of the same checkpoints."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.huggingface import read_config, supported_types
from mofang.catalog.knowledge import Catalog
from mofang.errors import CatalogError

CATALOG = Catalog.load()


def like_llama(model_type, layers, hidden, heads, kv_heads, ffn, vocab, positions, **more):
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
    } | more


def like_gpt2(layers, hidden, heads, **more):
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": 1024, "vocab_size": 50257}
    return {"model_type": "gpt2"} | sizes | more


DEEPSEEK = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_layer_freq": 1,
    "attention_bias": False,
}
CONFIGS = {
    "gpt2": like_gpt2(12, 768, 12, n_inner=None),
    "gpt2-xl": like_gpt2(48, 1600, 25),
    "llama-2-7b": like_llama("llama", 32, 4096, 32, 32, 11008, 32000, 4096),
    "llama-7b": like_llama("llama", 32, 4096, 32, None, 11008, 32000, 2048, attention_bias=False),
    "llama-3-8b": like_llama("llama", 32, 4096, 32, 8, 14336, 128256, 8192, tie_word_embeddings=False),
    "llama-3.2-1b": like_llama("llama", 16, 2048, 32, 8, 8192, 128256, 131072, head_dim=64, tie_word_embeddings=True),
    "mistral-7b": like_llama("mistral", 32, 4096, 32, 8, 14336, 32000, 32768, sliding_window=4096),
    "mistral-nemo-12b": like_llama("mistral", 40, 5120, 32, 8, 14336, 131072, 1024000, head_dim=128),
    "mixtral-8x7b": like_llama(
        "mixtral", 32, 4096, 32, 8, 14336, 32000, 32768, num_local_experts=8, num_experts_per_tok=2
    ),
    "qwen2.5-7b": like_llama("qwen2", 28, 3584, 28, 4, 18944, 152064, 131072),
    "qwen2.5-0.5b": like_llama("qwen2", 24, 896, 14, 2, 4864, 151936, 32768, tie_word_embeddings=True),
    "qwen1.5-moe-a2.7b": like_llama(
        "qwen2_moe",
        24,
        2048,
        16,
        16,
        5632,
        151936,
        8192,
        num_experts=60,
        num_experts_per_tok=4,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
        decoder_sparse_step=1,
    ),
    "qwen3-8b": like_llama("qwen3", 36, 4096, 32, 8, 12288, 151936, 40960, head_dim=128, attention_bias=False),
    "qwen3-30b-a3b": like_llama(
        "qwen3_moe",
        48,
        2048,
        32,
        4,
        6144,
        151936,
        40960,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
    "deepseek-v2-lite": like_llama(
        "deepseek_v2",
        27,
        2048,
        16,
        16,
        10944,
        102400,
        163840,
        q_lora_rank=None,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
        **DEEPSEEK,
    ),
    "deepseek-v3": like_llama(
        "deepseek_v3",
        61,
        7168,
        128,
        128,
        18432,
        129280,
        163840,
        q_lora_rank=1536,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        moe_intermediate_size=2048,
        first_k_dense_replace=3,
        num_nextn_predict_layers=1,
        **DEEPSEEK,
    ),
    "gemma-7b": like_llama("gemma", 28, 3072, 16, 16, 24576, 256000, 8192, head_dim=256),
    "gemma-2-9b": like_llama("gemma2", 42, 3584, 16, 8, 14336, 256000, 8192, head_dim=256),
    "gemma-3-1b": like_llama("gemma3_text", 26, 1152, 4, 1, 6912, 262144, 32768, head_dim=256),
    "gemma-3-4b": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
        },
        "vision_config": {"hidden_size": 1152},
    },
    "phi-2": like_llama("phi", 32, 2560, 32, None, 10240, 51200, 2048, qk_layernorm=False),
    "phi-3-mini": like_llama("phi3", 32, 3072, 32, 32, 8192, 32064, 4096),
    "phi-3.5-moe": like_llama(
        "phimoe",
        32,
        4096,
        32,
        8,
        6400,
        32064,
        131072,
        attention_bias=True,
        lm_head_bias=True,
        num_local_experts=16,
        num_experts_per_tok=2,
    ),
    "falcon-7b": {
        "model_type": "falcon",
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "new_decoder_architecture": False,
        "vocab_size": 65024,
    },
    "falcon-40b": {
        "model_type": "falcon",
        "hidden_size": 8192,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
        "num_kv_heads": 8,
        "bias": False,
        "new_decoder_architecture": True,
        "vocab_size": 65024,
    },
    "opt-125m": {
        "model_type": "opt",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "ffn_dim": 3072,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 768,
        "do_layer_norm_before": True,
    },
    "bloom-560m": {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
    "pythia-12b": like_llama("gpt_neox", 36, 5120, 40, None, 20480, 50688, 2048, use_parallel_residual=True),
    "gpt-j-6b": {
        "model_type": "gptj",
        "n_embd": 4096,
        "n_head": 16,
        "n_layer": 28,
        "n_positions": 2048,
        "vocab_size": 50400,
        "tie_word_embeddings": False,
    },
    "internlm2-7b": like_llama("internlm2", 32, 4096, 32, 8, 14336, 92544, 32768, bias=False),
    "stablelm-2-1.6b": like_llama("stablelm", 24, 2048, 32, 32, 5632, 100352, 4096, use_qkv_bias=True),
    "chatglm3-6b": {
        "model_type": "chatglm",
        "num_layers": 28,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "kv_channels": 128,
        "ffn_hidden_size": 13696,
        "padded_vocab_size": 65024,
        "seq_length": 8192,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "rmsnorm": True,
    },
    "glm-4-9b": like_llama("glm", 40, 4096, 32, 2, 13696, 151552, 8192, head_dim=128, attention_bias=True),
    "baichuan2-13b": {
        "model_type": "baichuan",
        "num_hidden_layers": 40,
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "intermediate_size": 13696,
        "vocab_size": 125696,
        "model_max_length": 4096,
    },
    "minicpm-2b": like_llama("minicpm", 40, 2304, 36, 36, 5760, 122753, 4096),
    "mpt-7b": {
        "model_type": "mpt",
        "d_model": 4096,
        "n_heads": 32,
        "n_layers": 32,
        "max_seq_len": 2048,
        "vocab_size": 50432,
        "no_bias": True,
        "expansion_ratio": 4,
        "attn_config": {"alibi": True},
    },
    "olmo-2-7b": like_llama("olmo2", 32, 4096, 32, 32, 11008, 100352, 4096),
    "olmoe-1b-7b": like_llama("olmoe", 16, 2048, 16, 16, 1024, 50304, 4096, num_experts=64, num_experts_per_tok=8),
    "command-r-35b": like_llama("cohere", 40, 8192, 64, 64, 22528, 256000, 8192, use_qk_norm=False),
    "dbrx": {
        "model_type": "dbrx",
        "d_model": 6144,
        "n_heads": 48,
        "n_layers": 40,
        "max_seq_len": 32768,
        "vocab_size": 100352,
        "attn_config": {"kv_n_heads": 8},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "gpt-oss-20b": like_llama(
        "gpt_oss",
        24,
        2880,
        64,
        8,
        2880,
        201088,
        131072,
        head_dim=64,
        attention_bias=True,
        num_local_experts=32,
        num_experts_per_tok=4,
    ),
    "llama-4-maverick": {
        "model_type": "llama4",
        "text_config": like_llama(
            "llama4_text",
            48,
            5120,
            40,
            8,
            8192,
            202048,
            1048576,
            head_dim=128,
            intermediate_size_mlp=16384,
            interleave_moe_layer_step=2,
            num_local_experts=128,
            num_experts_per_tok=1,
        ),
    },
    "nemotron-4-340b": like_llama("nemotron", 96, 18432, 96, 8, 73728, 256000, 4096, head_dim=192),
}


def write(folder, config, name="config.json"):
    file = folder / name
    file.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_gives_the_parameters_of_the_catalogue(tmp_path, name):
    found, known = read_config(write(tmp_path, CONFIGS[name])), CATALOG.model(name)
    assert found.params == known.params
    assert found.active_params == known.active_params
    assert (found.layers, found.heads, found.kv_heads) == (known.layers, known.heads, known.kv_heads)


def test_every_well_known_type_is_read():
    known = set(supported_types())
    assert {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "deepseek_v2"} <= known
    assert {"deepseek_v3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "falcon", "gpt2", "gpt_neox"} <= known
    assert {"opt", "bloom"} <= known


def test_a_folder_stands_for_its_config(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    file = write(folder, CONFIGS["llama-3-8b"])
    assert CATALOG.model(str(folder)).name == "my-model"
    assert CATALOG.model(file) == CATALOG.model(folder)


def test_gpt_neo_and_starcoder2_are_counted(tmp_path):
    neo = {"model_type": "gpt_neo", "hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": None}
    neo |= {"vocab_size": 50257, "max_position_embeddings": 2048}
    assert read_config(write(tmp_path, neo)).params == 125_198_592  # EleutherAI/gpt-neo-125m
    star = like_llama("starcoder2", 30, 3072, 24, 2, 12288, 49152, 16384, use_bias=True, tie_word_embeddings=True)
    assert read_config(write(tmp_path, star)).params == 3_030_371_328  # bigcode/starcoder2-3b
    olmo = like_llama("olmo", 16, 2048, 16, 16, 8192, 50304, 2048, tie_word_embeddings=True)
    assert read_config(write(tmp_path, olmo)).params == 1_176_764_416  # allenai/OLMo-1B-hf


LLAMA = CONFIGS["llama-3-8b"]


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "model_type"])
@pytest.mark.parametrize("value", ["absent", None])
def test_a_missing_key_is_named(tmp_path, key, value):
    config = {name: given for name, given in LLAMA.items() if name != key}
    if value is None:
        config[key] = None
    file = write(tmp_path, config)
    with pytest.raises(CatalogError) as caught:
        read_config(file)
    assert caught.value.message == f"{file}: key {key!r} is missing"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "lama"}, "model_type 'lama' is not known"),
        ({"model_type": 7}, "key 'model_type' is not text: 7"),
        ({"hidden_size": "big"}, "key 'hidden_size' is not a whole number: \"big\""),
        ({"hidden_size": 4096.5}, "key 'hidden_size' is not a whole number"),
        ({"hidden_size": True}, "key 'hidden_size' is not a whole number"),
        ({"hidden_size": -1}, "key 'hidden_size' is not a whole number"),
        ({"num_hidden_layers": 0}, "layers must be at least 1, not 0"),
        ({"num_attention_heads": 0}, "heads must be at least 1, not 0"),
        ({"num_key_value_heads": 5}, "heads must be a multiple of kv_heads"),
        ({"tie_word_embeddings": "no"}, "key 'tie_word_embeddings' is not true or false"),
        ({"model_type": "vision", "text_config": {}}, "key 'text_config.model_type' is missing"),
        ({"model_type": "vision", "text_config": 3}, "key 'text_config' is not an object"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "key 'num_experts_per_tok' is missing"),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9}, "9 is not in 1..8"),
        ({"model_type": "opt"}, "key 'ffn_dim' is missing"),
        ({"model_type": "gpt2"}, "key 'n_embd' is missing"),
        ({"model_type": "phi", "qk_layernorm": True}, "key 'qk_layernorm' is true; only false is understood"),
        ({"model_type": "dbrx", "attn_config": []}, "key 'attn_config' is not an object"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, change, says):
    file = write(tmp_path, LLAMA | change)
    with pytest.raises(CatalogError) as caught:
        read_config(file)
    assert caught.value.message.startswith(str(file))
    assert "\n" not in caught.value.message
    assert says in caught.value.message


def test_dense_layers_in_the_middle_are_refused(tmp_path):
    file = write(tmp_path, CONFIGS["qwen3-30b-a3b"] | {"mlp_only_layers": [3]})
    with pytest.raises(CatalogError, match="key 'mlp_only_layers' names other layers"):
        read_config(file)
    for odd in (True, 3, "x"):
        file = write(tmp_path, CONFIGS["qwen3-30b-a3b"] | {"mlp_only_layers": odd})
        with pytest.raises(CatalogError, match="mlp_only_layers"):
            read_config(file)


def test_an_unknown_type_says_which_is_near(tmp_path):
    with pytest.raises(CatalogError) as caught:
        read_config(write(tmp_path, LLAMA | {"model_type": "qwen33"}))
    assert "'qwen3'" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: not JSON"),
        ('{"model_type":\n', "line 2: not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "too large or too deep"),
        ('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", "too large or too deep"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path, text, says):
    file = write(tmp_path, text)
    with pytest.raises(CatalogError) as caught:
        read_config(file)
    assert caught.value.message.startswith(str(file))
    assert says in caught.value.message


def test_a_missing_file_or_folder_is_refused(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read: No such file"):
        CATALOG.model(str(tmp_path / "gone.json"))
    with pytest.raises(CatalogError, match=r"config.json: cannot be read"):
        CATALOG.model(tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CatalogError, match="not UTF-8"):
        CATALOG.model(str(tmp_path / "x.json"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_config_is_more_than_a_catalogue_error(tmp_path_factory, data):
    config = dict(data.draw(st.sampled_from(list(CONFIGS.values()))))
    wrong = st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=5), st.lists(st.none())
    )
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config[key] = data.draw(wrong)
    file = write(tmp_path_factory.mktemp("config"), config)
    try:
        told = "" if read_config(file).params > 0 else "a model without parameters"
    except CatalogError as error:
        told = error.message
    assert told.startswith(str(file)) or not told
