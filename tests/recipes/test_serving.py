"""The service for real: a tiny model that the test builds, many requests at once, answers equal to the model's own."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mofang.domain.codec import encode
from mofang.domain.hardware import Precision
from mofang.domain.recipe import DeviceKind, ServingConfig
from mofang.errors import SpecError

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def greedy(model, tokens, count):
    with torch.inference_mode():
        prompt = torch.tensor([tokens])
        seen = torch.ones_like(prompt)  # without it, a token 0 in the prompt is taken for padding
        out = model.generate(prompt, attention_mask=seen, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return out[0, len(tokens) :].tolist()


def config_for(folder, **values):
    defaults = {"precision": Precision.FP32, "concurrency": 4, "max_sequence": 128, "kv_tokens": 2048}
    return ServingConfig(model_path=str(folder), device=DeviceKind.CPU, **{**defaults, **values})


@contextmanager
def started(config, tmp_path, **environ):
    path = tmp_path / "recipe.json"
    path.write_text(encode(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "mofang.recipes.serving", "--config", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def end(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    return process.stdout.read()


def url_of(process):
    for line in process.stdout:
        if line.startswith("serving "):
            return line.split("'url': '")[1].split("'")[0]
    raise AssertionError(process.stderr.read())


@pytest.fixture(scope="module")
def service(folder, tmp_path_factory):
    with started(config_for(folder), tmp_path_factory.mktemp("run")) as process:
        yield url_of(process)
        assert "result" in end(process)


def ask(url, path="/v1/completions", token="", **body):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def refused(url, **body):
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(url, **body)
    return caught.value.code, json.loads(caught.value.read())["error"]["message"]


@pytest.mark.serial
def test_many_requests_at_once_get_what_the_model_says_alone(service, reference):
    prompts = [[(7 * index + place) % 250 for place in range(3 + 5 * index)] for index in range(9)]

    def one(prompt):
        answer = json.loads(ask(service, prompt=prompt, max_tokens=16))
        return answer["usage"], answer["choices"][0]

    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(one, prompts))
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(reference.name_or_path) / "tokenizer.json"))
    for prompt, (usage, choice) in zip(prompts, answers, strict=True):
        assert usage == {"prompt_tokens": len(prompt), "completion_tokens": 16}
        assert choice["text"] == tokenizer.decode(greedy(reference, prompt, 16))
        assert choice["finish_reason"] == "length"


@pytest.mark.serial
def test_a_stream_adds_up_to_the_whole_answer(service):
    whole = json.loads(ask(service, prompt="def main():", max_tokens=20))["choices"][0]["text"]
    lines = [line[6:] for line in ask(service, prompt="def main():", max_tokens=20, stream=True).splitlines() if line]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert len(pieces) > 5
    # A half character at the very end is shown in the whole answer only.
    assert whole.startswith("".join(piece["text"] for piece in pieces))
    assert pieces[-1]["finish_reason"] == "length"


@pytest.mark.serial
def test_health_and_metrics(service):
    ask(service, prompt="x", max_tokens=3)
    assert json.loads(ask(service, "/health")) == {"status": "ok"}
    metrics = ask(service, "/metrics")
    assert "mofang_serving_requests_total" in metrics
    values = dict(line.split() for line in metrics.splitlines() if not line.startswith("#"))
    assert float(values["mofang_serving_output_tokens_total"]) >= 3
    assert float(values["mofang_serving_ttft_s"]) > 0


@pytest.mark.serial
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "", "max_tokens": 4}, "the prompt is empty"),
        ({"prompt": "x" * 120, "max_tokens": 20}, "exceed the 128 allowed"),
        ({"prompt": [5000], "max_tokens": 4}, "beyond the vocabulary"),
        ({"prompt": {"a": 1}}, "prompt must be text"),
        ({"prompt": "x", "max_tokens": -1}, "max_tokens must be a number"),
        ({"prompt": "x", "temperature": "hot"}, "temperature must be a number"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(service, body, message):
    code, text = refused(service, **body)
    assert code == 400
    assert message in text


@pytest.mark.serial
def test_other_addresses_need_a_token(folder, tmp_path):
    with started(config_for(folder, host="0.0.0.0"), tmp_path) as process:
        assert process.wait(60) == 2
        assert "no token is set" in process.stderr.read()


@pytest.mark.serial
def test_a_token_is_asked_for(folder, tmp_path):
    with started(config_for(folder), tmp_path, MOFANG_SERVICE_TOKEN="s3cret") as process:
        url = url_of(process)
        assert refused(url, prompt="x")[0] == 401
        assert json.loads(ask(url, prompt="x", token="s3cret"))["choices"]
        end(process)


@pytest.mark.serial
def test_a_folder_without_weights_is_refused_in_a_line(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    with started(config_for(tmp_path), tmp_path) as process:
        assert process.wait(60) != 0
        error = process.stderr.read()
    assert "has no *.safetensors" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("values", [{"concurrency": 0}, {"precision": Precision.FP8}, {"port": 70000}])
def test_settings_are_checked(folder, values):
    with pytest.raises(SpecError):
        config_for(folder, **values)
