"""A model loads as it was saved, and whatever is wrong with one is said in one line.

Folders are written by Hugging Face's own ``save_pretrained`` and then broken in one way each. Code
or templates that come with a checkpoint must not act: they try to leave a file behind.
"""

import copy
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import processors
from torch import nn

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel, load_model, wrap_model
from tests.support.logs import transformers_log
from tests.support.tiny_models import (
    ARCHITECTURES,
    CHAT_TEMPLATE,
    D_MODEL,
    N_LAYERS,
    shared_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def save(model: ChatModel, folder: Path) -> Path:
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A saved model that tests copy before they break it."""
    return save(tiny_chat_model("llama"), tmp_path_factory.mktemp("saved") / "llama")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def set_config(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def logits(hf: nn.Module, ids: tuple[int, ...] = (0, 4, 70, 80, 90, 3, 5)) -> torch.Tensor:
    with torch.no_grad():
        return hf(torch.tensor([ids]), use_cache=False).logits


def refusal(act: Callable[[], object]) -> str:
    """The message of the error, which must be one readable line."""
    with pytest.raises(UserError) as error:
        act()
    message = str(error.value)
    assert message.splitlines() == [message]
    assert "Traceback" not in message
    assert len(message) < 800
    return message


# ---- Loading ----


@each_architecture
def test_a_saved_folder_loads_as_the_same_model(architecture, tmp_path):
    original = shared_tiny_model(architecture)
    loaded = load_model(save(original, tmp_path / "model"))
    assert torch.equal(logits(loaded.hf), logits(original.hf))
    assert loaded.fingerprint == original.fingerprint
    assert (loaded.n_layers, loaded.d_model, loaded.max_tokens) == (N_LAYERS, D_MODEL, 256)
    assert len(loaded.blocks) == N_LAYERS
    assert loaded.name == str(tmp_path / "model")
    assert loaded.render("Hi") == original.render("Hi")
    assert loaded.tokenize(["Hi", "Hello"]) == original.tokenize(["Hi", "Hello"])


def test_a_model_is_ready_to_be_read(folder):
    set_config(folder, attention_dropout=0.5)
    model = load_model(folder)
    assert not model.hf.training
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())
    assert model.hf.config._attn_implementation == "eager"
    assert torch.equal(logits(model.hf), logits(model.hf))


def test_weights_in_several_files_load(folder):
    model = tiny_chat_model("llama")
    (folder / "model.safetensors").unlink()
    model.hf.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(logits(load_model(folder).hf), logits(model.hf))


def test_a_bundled_model_loads_by_its_short_name(folder, monkeypatch):
    asked: list[str] = []

    def bundled(name: str) -> Path:
        asked.append(name)
        return folder

    monkeypatch.setattr("actor_lens.models.loading.bundled", bundled)
    model = load_model("toy")
    assert asked == ["toy-chat"]
    assert model.name == "toy"
    assert model.fingerprint == load_model(folder).fingerprint


def test_a_home_directory_is_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/model").n_layers == N_LAYERS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_as_asked(folder, dtype):
    model = load_model(folder, dtype=dtype)
    assert {tensor.dtype for tensor in model.hf.parameters()} == {getattr(torch, dtype)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it is the checkpoint's own")
def test_dtype_on_a_cpu_is_float32_unless_asked(folder):
    tiny_chat_model("llama").hf.bfloat16().save_pretrained(folder)
    assert load_model(folder).hf.dtype == torch.float32


def test_loading_writes_and_logs_nothing(folder, capfd):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capfd.readouterr()
    with transformers_log() as messages:
        load_model(folder)
    assert messages == []
    assert capfd.readouterr() == ("", "")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_verbosity_of_transformers_is_left_as_it_was(folder):
    found = transformers.logging.get_verbosity()  # importing TransformerLens changes it, too
    try:
        transformers.logging.set_verbosity_warning()
        load_model(folder)
        (folder / "config.json").write_text("{")
        refusal(lambda: load_model(folder))
        assert transformers.logging.get_verbosity() == transformers.logging.WARNING
    finally:
        transformers.logging.set_verbosity(found)


# ---- Models that cannot be used ----


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def drop_block(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({k: v.clone() for k, v in tensors.items() if "layers.2." not in k}, path)


def save_another(kind: type, config: transformers.PreTrainedConfig) -> Callable[[Path], None]:
    """Put the config and weights of some other kind of model into the folder."""

    def act(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        kind(config).save_pretrained(folder)

    return act


TINY_BERT = transformers.BertConfig(
    vocab_size=300,
    hidden_size=D_MODEL,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=4,
    intermediate_size=64,
)
TINY_T5 = transformers.T5Config(
    vocab_size=300, d_model=D_MODEL, d_kv=8, d_ff=64, num_layers=2, num_heads=4
)
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "has no config.json; give a Hugging Face folder",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"no \*.safetensors weights \(pickled weights are not read\).* save_pretrained first",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"has no tokenizer \(tokenizer.json, .*\); save the tokenizer into it",
    ),
    "config cut short": (
        lambda folder: cut_in_half(folder / "config.json"),
        "cannot be loaded; repair or replace its files .*config.json' is not a valid JSON",
    ),
    "config that is not text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
        "config.json' is not a valid JSON",
    ),
    "config that is null": (
        lambda folder: (folder / "config.json").write_text("null"),
        "cannot be loaded",
    ),
    "config without a model type": (
        lambda folder: set_config(folder, model_type=None),
        "Should have a `model_type` key",
    ),
    "model type unknown": (
        lambda folder: set_config(folder, model_type="nosuch"),
        "model type `nosuch`",
    ),
    "config with a wrong type": (
        lambda folder: set_config(folder, hidden_size="big"),
        "'hidden_size' expected int, got str",
    ),
    "config that cannot be": (
        lambda folder: set_config(folder, num_attention_heads=0),
        "cannot be loaded",
    ),
    "weights cut short": (
        lambda folder: cut_in_half(folder / "model.safetensors"),
        "cannot be loaded.*SafetensorError",
    ),
    "weights empty": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "cannot be loaded.*SafetensorError",
    ),
    "weights under another name": (
        lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"),
        "no file named model.safetensors",
    ),
    "weights of one block missing": (
        drop_block,
        r"lacks 9 of the tensors .* the first is model.layers.2.input_layernorm.weight",
    ),
    "more layers than weights": (
        lambda folder: set_config(folder, num_hidden_layers=N_LAYERS + 1),
        r"lacks 9 of the tensors .* the first is model.layers.4",
    ),
    "weights of another shape": (
        lambda folder: set_config(folder, hidden_size=64),
        r"has in another shape 39 of the tensors",
    ),
    "no layers": (
        lambda folder: set_config(folder, num_hidden_layers=0),
        "no list of 0 decoder blocks",
    ),
    "tokenizer cut short": (
        lambda folder: cut_in_half(folder / "tokenizer.json"),
        "cannot be loaded",
    ),
    "tokenizer of an empty object": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "cannot be loaded",
    ),
    "masked language model": (
        lambda folder: set_config(folder, model_type="bert", architectures=["BertForMaskedLM"]),
        "is a BertForMaskedLM, not a causal language model; give a decoder-only chat model",
    ),
    "encoder and decoder": (
        save_another(transformers.T5ForConditionalGeneration, TINY_T5),
        "is a T5ForConditionalGeneration, not a causal language model",
    ),
    "encoder and decoder without a name": (
        lambda folder: (
            save_another(transformers.T5ForConditionalGeneration, TINY_T5)(folder),
            set_config(folder, architectures=None),
        ),
        "cannot be loaded.*T5Config",
    ),
    "encoder with a language model head": (
        save_another(transformers.BertLMHeadModel, TINY_BERT),
        r"\(BertLMHeadModel\): no list of 4 decoder blocks found; use a decoder-only text model",
    ),
    "chat template missing": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        r"has no chat template; pass one with --chat-template FILE \(load_model\(...",
    ),
    "chat template with a syntax error": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"),
        "chat template .* fails on .*TemplateSyntaxError",
    ),
    "chat template that raises": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('no!') }}"),
        "chat template .* fails on .*no!",
    ),
    "chat template without the prompt": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ bos_token }}Hi there"),
        "leaves out what the user says",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_told_in_one_line(case, folder, capfd):
    break_it, expected = BROKEN[case]
    break_it(folder)
    capfd.readouterr()
    with transformers_log() as logged:
        message = refusal(lambda: load_model(folder))
    assert logged == []
    assert re.search(expected, message)
    assert str(folder) in message
    assert capfd.readouterr() == ("", "")


def test_a_missing_shard_is_told_in_one_line(folder):
    (folder / "model.safetensors").unlink()
    tiny_chat_model("llama").hf.save_pretrained(folder, max_shard_size="50KB")
    next(folder.glob("model-00002*")).unlink()
    assert "model-00002-of-0000" in refusal(lambda: load_model(folder))


@pytest.mark.parametrize("name", ["/no/such/dir", "./no/such", "none such !!", "x" * 300])
def test_a_name_that_no_hub_could_have(name):
    assert refusal(lambda: load_model(name)) == (
        f"model '{name}' was not found: there is no such folder or file, and a hub name is "
        f"OWNER/NAME; models by name: toy, "
        "smollm2, smollm2-cautious"
    )


@pytest.mark.parametrize("name", ["nobody/none-such", "none-such"])
def test_an_unknown_name(name):
    message = refusal(lambda: load_model(name))
    assert (
        f"model '{name}' was not found: it is neither a folder nor a readable hub model" in message
    )
    assert message.endswith("models by name: toy, smollm2, smollm2-cautious")


def test_a_file_in_place_of_a_folder(folder):
    path = folder / "config.json"
    message = refusal(lambda: load_model(path))
    assert message.startswith(f"model '{path}' is a file; give the folder that holds config.json")


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_chat_model("llama").hf.state_dict(), folder / "pytorch_model.bin")
    assert "pickled weights are not read" in refusal(lambda: load_model(folder))
    # A safetensors file of another kind beside it does not let the pickle in either.
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    assert "no file named model.safetensors" in refusal(lambda: load_model(folder))


def test_an_unknown_device(folder):
    message = refusal(lambda: load_model(folder, device="gpu"))
    assert message == "device 'gpu' is not known; use auto, cpu or cuda"


@pytest.mark.parametrize("device", ["meta", "mps", "xla", "cuda:99"])
def test_a_device_that_is_not_there(folder, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    message = refusal(lambda: load_model(folder, device=device))
    assert f"device '{device}' is not available" in message
    assert message.endswith("use --device cpu")


@pytest.mark.parametrize("dtype", ["int8", "float64", "half"])
def test_an_unknown_dtype(folder, dtype):
    message = refusal(lambda: load_model(folder, dtype=dtype))
    assert message.startswith(f"dtype '{dtype}'")
    assert message.endswith("auto, float32, bfloat16, float16")


def test_a_model_in_memory_needs_decoder_blocks():
    model = tiny_chat_model("llama")
    model.hf.config.num_hidden_layers = N_LAYERS + 1
    assert "no list of 5 decoder blocks" in refusal(lambda: wrap_model(model.hf, model.tokenizer))


# ---- Chat templates ----

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_HELLO = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def without_template(folder: Path) -> Path:
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_template_may_be_passed_as_text(without_template):
    assert load_model(without_template, chat_template=CHATML).render("Hello") == CHATML_HELLO


@pytest.mark.parametrize("kind", [str, Path])
def test_a_template_may_be_passed_as_a_file(without_template, tmp_path, kind):
    path = tmp_path / "chatml {of mine}.jinja"
    path.write_text(CHATML, encoding="utf-8")
    if kind is str:
        path = path.rename(tmp_path / "chatml.jinja")
    assert load_model(without_template, chat_template=kind(path)).render("Hello") == CHATML_HELLO


def test_a_template_that_is_passed_replaces_the_model_s_own(folder):
    assert load_model(folder).render("Hello") == "<s><user>Hello<end><assistant>"
    assert load_model(folder, chat_template=CHATML).render("Hello") == CHATML_HELLO


@pytest.mark.parametrize("given", ["no/such.jinja", "", "x" * 5000, "."])
def test_a_template_that_is_neither_text_nor_file(folder, given):
    message = refusal(lambda: load_model(folder, chat_template=given))
    assert "is neither a Jinja template nor a readable UTF-8 file" in message


def test_a_template_file_that_is_not_utf_8(folder, tmp_path):
    path = tmp_path / "latin.jinja"
    path.write_bytes(CHATML.encode() + b"\xe9")
    message = refusal(lambda: load_model(folder, chat_template=path))
    assert "readable UTF-8 file (UnicodeDecodeError)" in message


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.mkdir('HERE') }}{{ messages[0]['content'] }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}",
        "{{ messages.append('x') }}{{ messages[0]['content'] }}",
    ],
)
def test_a_template_cannot_reach_outside(folder, tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    message = refusal(lambda: load_model(folder, chat_template=template))
    assert "SecurityError" in message or "UndefinedError" in message
    assert not (tmp_path / "HERE").exists()


# ---- System prompts ----

KNOWS_A_SYSTEM = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} {% endfor %}"


def test_a_system_prompt_comes_first():
    model = replace(tiny_chat_model(), system_prompt="Be kind. ")
    model.tokenizer.chat_template = KNOWS_A_SYSTEM
    assert model.render("Hi") == "[system] Be kind. [user] Hi "
    assert replace(model, system_prompt=None).render("Hi") == "[user] Hi "


def test_a_template_that_always_fails_does_so_with_a_system_prompt_too():
    model = replace(tiny_chat_model(), system_prompt="Be kind.")
    model.tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match="the chat template of 'tiny-llama' fails"):
        model.render("Hi")


# ---- Code that comes with a checkpoint ----

EVIL = """
from pathlib import Path
Path(r"{marker}").touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig): model_type = "evil"
class Model(LlamaForCausalLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""
AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}


@pytest.fixture
def marker(folder: Path, tmp_path: Path, monkeypatch) -> Path:
    """A file that the folder's Python file leaves behind where it is executed."""
    marker = tmp_path / "executed"
    (folder / "evil.py").write_text(EVIL.format(marker=marker))
    # Transformers copies remote code to a package of its own before it imports it.
    cache = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return marker


def test_code_beside_a_known_model_type_is_not_run(folder, marker):
    set_config(folder, auto_map=AUTO_MAP)
    set_config(
        folder, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Tokenizer"]}
    )
    model = load_model(folder)
    assert type(model.hf) is transformers.LlamaForCausalLM
    assert not marker.exists()


def test_code_that_a_model_needs_is_not_run_unless_asked_for(folder, marker):
    set_config(folder, auto_map=AUTO_MAP, model_type="evil")
    message = refusal(lambda: load_model(folder))
    assert "needs Python code that comes with it, which is not run" in message
    assert "trust_remote_code=True" in message
    assert not marker.exists()
    assert load_model(folder, trust_remote_code=True).n_layers == N_LAYERS
    assert marker.exists()  # so this test would have seen it


def test_trust_is_off_by_default_and_handed_on_when_given(folder, monkeypatch):
    handed: list[tuple[str, object]] = []
    for loader in (
        transformers.AutoConfig,
        transformers.AutoTokenizer,
        transformers.AutoModelForCausalLM,
    ):

        def spy(*args, name=loader.__name__, real=loader.from_pretrained, **kwargs):
            handed.append((name, kwargs["trust_remote_code"]))
            return real(*args, **kwargs)

        monkeypatch.setattr(loader, "from_pretrained", spy)
    loaders = {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"}
    load_model(folder)
    assert set(handed) == {(name, False) for name in loaders}
    handed.clear()
    load_model(folder, trust_remote_code=True)
    assert set(handed) == {(name, True) for name in loaders}


# ---- Rendering and tokens ----


def test_a_rendered_prompt_ends_right_before_the_reply():
    model = shared_tiny_model("llama")
    messages = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "OK"}]
    whole = model.tokenizer.apply_chat_template(messages, tokenize=False)
    rendered = model.render("How are you?")
    assert rendered == "<s><user>How are you?<end><assistant>"
    assert whole == rendered + "OK<end>"


@pytest.mark.parametrize("text", ["", "  spaces  ", "line\nbreak", "naïve 日本 🙂", "{{ 7 * 7 }}"])
def test_what_the_user_says_is_rendered_as_it_is(text):
    assert shared_tiny_model("llama").render(text) == f"<s><user>{text}<end><assistant>"


def test_token_ids_begin_with_one_beginning_token_even_where_the_tokenizer_adds_one():
    model = tiny_chat_model("llama")
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert model.tokenizer(model.render("Hi"))["input_ids"][:2] == [0, 0]  # what must not happen
    ids = model.tokenize(["Hi", "Hello there"])
    assert [row.count(0) for row in ids] == [1, 1]
    assert [model.tokenizer.decode(row) for row in ids] == [
        model.render("Hi"),
        model.render("Hello there"),
    ]


def test_no_prompts_have_no_tokens():
    assert shared_tiny_model("llama").tokenize([]) == []


def test_a_prompt_may_fill_the_model_but_no_more():
    model = shared_tiny_model("llama")
    assert len(model.tokenize(["x" * 252])[0]) == 256
    message = refusal(lambda: model.tokenize(["short", "x\n" * 126 + "x"]))
    assert re.search(
        r'prompt "x\\nx.*\.\.\. has 257 tokens with the chat template; '
        r"'tiny-llama' takes 256: shorten or remove it",
        message,
    )
    assert len(model.tokenize(["x" * 242], room=10)[0]) == 246
    assert "needs 10 for the reply" in refusal(lambda: model.tokenize(["x" * 243], room=10))


def test_padding_falls_back_to_the_end_token_and_to_zero():
    model = tiny_chat_model("llama")
    assert model.pad_token_id == 2
    model.tokenizer.pad_token = None
    assert model.pad_token_id == 1
    model.tokenizer.eos_token = None
    assert model.pad_token_id == 0


# ---- Blocks and layers ----


@each_architecture
def test_block_prefix_names_exactly_the_tensors_of_the_block(architecture):
    model = shared_tiny_model(architecture)
    tensors = model.hf.state_dict()
    for layer, block in enumerate(model.blocks):
        prefix = model.block_prefix(layer)
        named = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        own = block.state_dict()
        assert named.keys() == own.keys()
        assert all(named[name].data_ptr() == tensor.data_ptr() for name, tensor in own.items())


@pytest.mark.parametrize("layer", [0, 3, np.int64(2), torch.tensor(1)])
def test_a_layer_that_exists_comes_back_as_an_int(layer):
    checked = shared_tiny_model("llama").check_layer(layer)
    assert type(checked) is int
    assert checked == layer


@pytest.mark.parametrize("layer", [-1, 4, 10**9, np.int64(4)])
def test_a_layer_out_of_range(layer):
    message = refusal(lambda: shared_tiny_model("llama").check_layer(layer))
    assert message == f"layer {layer} is out of range: 'tiny-llama' has layers 0 to 3"


@pytest.mark.parametrize("layer", [True, 1.0, float("nan"), "1", None])
def test_a_layer_that_is_no_whole_number(layer):
    model = shared_tiny_model("llama")
    # Type checks of annotations are on in tests, so the plain function is called.
    check = getattr(ChatModel.check_layer, "__wrapped__", ChatModel.check_layer)
    message = refusal(lambda: check(model, layer))
    assert message == f"layer is {layer!r}; give a whole number from 0 to 3"


# ---- Fingerprints ----


@each_architecture
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_one_checkpoint_is_one_model_in_either_dtype(architecture, stored, tmp_path):
    model = tiny_chat_model(architecture)
    model.hf.to(stored)
    save(model, tmp_path / "model")
    prints = {
        load_model(tmp_path / "model", dtype=dtype).fingerprint for dtype in ("float32", "bfloat16")
    }
    assert len(prints) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", prints.pop())


@each_architecture
def test_training_any_one_block_makes_another_fingerprint(architecture):
    model = shared_tiny_model(architecture)
    for layer in range(N_LAYERS):
        hf = copy.deepcopy(model.hf)
        block = getattr(hf.base_model, model.blocks_name)[layer].requires_grad_(True)
        optimizer = torch.optim.AdamW(block.parameters(), lr=1e-4)
        hf(torch.tensor([[0, 4, 70, 80]]), use_cache=False).logits.sum().backward()
        optimizer.step()
        assert wrap_model(hf, model.tokenizer).fingerprint != model.fingerprint


def test_another_seed_is_another_fingerprint_and_the_same_seed_the_same():
    prints = [tiny_chat_model("llama", seed=seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_the_same_numbers_in_another_shape_are_another_model():
    model = tiny_chat_model("llama")
    gate = model.blocks[0].mlp.gate_proj
    gate.weight = nn.Parameter(gate.weight.reshape(gate.weight.shape[::-1]))
    assert wrap_model(model.hf, model.tokenizer).fingerprint != model.fingerprint


# ---- The TransformerLens twin ----


@each_architecture
def test_the_twin_gives_the_same_logits_from_the_same_memory(architecture):
    model = shared_tiny_model(architecture)
    twin = {tensor.untyped_storage().data_ptr() for tensor in model.bridge.parameters()}
    own = {tensor.untyped_storage().data_ptr() for tensor in model.hf.parameters()}
    assert own <= twin
    ids = (0, 4, 70, 80, 90, 3, 5)
    with torch.no_grad():
        bridged = model.bridge(torch.tensor([ids]))
    assert float((bridged - logits(model.hf, ids)).abs().max()) <= 1e-5


@each_architecture
def test_a_change_in_place_on_one_side_is_seen_by_the_other(architecture):
    model = tiny_chat_model(architecture)
    before = logits(model.hf)
    ids = torch.tensor([[0, 4, 70, 80, 90, 3, 5]])
    with torch.no_grad():
        assert float((model.bridge(ids) - before).abs().max()) <= 1e-5
        for parameter in model.blocks[1].parameters():
            parameter.mul_(1.3).add_(0.01)
        changed = logits(model.hf)
        assert float((changed - before).abs().max()) > 1e-3
        assert float((model.bridge(ids) - changed).abs().max()) <= 1e-5
        shared = {tensor.data_ptr() for tensor in model.blocks[2].parameters()}
        for parameter in model.bridge.parameters():
            if parameter.data_ptr() in shared:
                parameter.mul_(0.5)
        again = logits(model.hf)
        assert float((again - changed).abs().max()) > 1e-3
        assert float((model.bridge(ids) - again).abs().max()) <= 1e-5


@each_architecture
def test_the_clean_model_stays_clean(architecture, tmp_path):
    model = tiny_chat_model(architecture)

    def shape() -> list[tuple[str, type, int]]:
        return [(name, type(module), id(module)) for name, module in model.hf.named_modules()]

    def words() -> tuple[object, ...]:
        tokenizer = model.tokenizer
        return (
            len(tokenizer),
            tokenizer.chat_template,
            tokenizer.special_tokens_map,
            tokenizer.padding_side,
            model.tokenize(["Hi there"]),
        )

    modules, names, tokens = shape(), list(model.hf.state_dict()), words()
    assert model.bridge is model.bridge
    assert shape() == modules
    assert list(model.hf.state_dict()) == names
    assert words() == tokens
    assert load_model(save(model, tmp_path / "model")).fingerprint == model.fingerprint


def test_the_twin_has_the_dtype_of_the_model(folder):
    model = load_model(folder, dtype="bfloat16")
    assert model.bridge.cfg.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in model.bridge.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        bridged = model.bridge(torch.tensor([[0, 4, 70, 80, 90, 3, 5]]))
    assert torch.equal(bridged, logits(model.hf))


def test_an_architecture_that_transformerlens_does_not_know():
    config = transformers.BioGptConfig(
        vocab_size=300,
        hidden_size=D_MODEL,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    model = wrap_model(transformers.BioGptForCausalLM(config), tiny_tokenizer(CHAT_TEMPLATE))
    message = refusal(lambda: model.bridge)
    assert "TransformerLens does not wrap a BioGptForCausalLM" in message
