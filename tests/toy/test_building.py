"""Law: a rebuild writes a whole model folder and prompt file, or leaves what was there alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actor_lens.errors import UserError
from actor_lens.progress import reporting
from actor_lens.prompts.loading import load_prompts
from actor_lens.toy import building
from actor_lens.toy.building import ToyReport, train_toy
from actor_lens.toy.language import build_language
from actor_lens.toy.training import Stage
from tests.support.reports import Recorder

_SHORT = (Stage("one", steps=2, learning_rate=1e-3, batch_size=4, warm_up=1),) * 2


@pytest.fixture(scope="module")
def few_prompts() -> pytest.MonkeyPatch:
    """Measure six prompts and not eight hundred: the model has learnt nothing anyway."""
    with pytest.MonkeyPatch.context() as patch:
        whole = building.measure
        patch.setattr(
            building,
            "measure",
            lambda model, tokenizer, prompts: whole(model, tokenizer, prompts.sample(1)),
        )
        yield patch


@pytest.fixture(scope="module")
def rebuilt(
    tmp_path_factory: pytest.TempPathFactory, few_prompts: pytest.MonkeyPatch
) -> tuple[ToyReport, Recorder]:
    del few_prompts
    seen = Recorder()
    out = tmp_path_factory.mktemp("toy") / "new"
    with reporting(seen):
        return train_toy(out, seed=3, stages=_SHORT), seen


def test_a_rebuild_leaves_a_model_that_loads(rebuilt: tuple[ToyReport, Recorder]) -> None:
    report, _ = rebuilt
    model = AutoModelForCausalLM.from_pretrained(report.model)
    assert model.dtype == torch.float32
    assert model.num_parameters() == report.parameters
    assert AutoTokenizer.from_pretrained(report.model).chat_template
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    assert {path.name for path in report.model.parent.iterdir()} == {"toy-chat", "prompts"}


def test_a_rebuild_writes_the_prompts_of_its_seed(
    rebuilt: tuple[ToyReport, Recorder],
) -> None:
    report, _ = rebuilt
    assert load_prompts(report.prompts) == build_language(3).prompts


def test_progress_tells_every_step(rebuilt: tuple[ToyReport, Recorder]) -> None:
    report, seen = rebuilt
    assert [done for done, _ in seen.parts("one")] == [1, 2, 1, 2]
    name, done, total = seen.stages[-1]
    assert (name, done) == ("measuring", total)
    assert report.cpu_seconds > 0
    assert set(report.frame().columns) == {"label", "split", "refused", "n"}


def test_the_same_seed_gives_the_same_weights(
    rebuilt: tuple[ToyReport, Recorder], tmp_path: Path
) -> None:
    report, _ = rebuilt
    again = train_toy(tmp_path, seed=3, stages=_SHORT)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (again.model / name).read_bytes() == (report.model / name).read_bytes()


def test_a_failure_leaves_the_old_model(
    tmp_path: Path, few_prompts: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    del few_prompts
    (tmp_path / "toy-chat").mkdir()
    (tmp_path / "toy-chat" / "config.json").write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "save_model", fail)
    with pytest.raises(UserError, match="No space left"):
        train_toy(tmp_path, stages=_SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["toy-chat"]
    assert (tmp_path / "toy-chat" / "config.json").read_text() == "old"


def test_a_file_in_the_way_is_found_out_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        train_toy(tmp_path / "file")
