"""A sweep takes the best of all learning rates, counts its seconds, and is not made twice."""

import json
from types import SimpleNamespace

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments import presets
from actor_lens.experiments.older_files import PRESET_FILE
from actor_lens.experiments.presets import PRESETS, SWEEP_FILE, find_settings
from actor_lens.experiments.sweep import layer_sweep
from actor_lens.progress import Reporter, reporting
from actor_lens.training.config import FinetuneConfig
from tests.support.studies import planted_prompts
from tests.support.tiny_models import tiny_chat_model

PAPER = PRESETS["paper"]
PROMPTS = planted_prompts(2)
RANKS = {1e-4: 0.7, 3e-4: 0.9, 1e-3: 0.9}


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture
def asked(monkeypatch):
    """What sweeps were asked for; each takes two seconds of a clock that stands still between."""
    asked, clock = [], [0.0]

    def sweep(_model, _train, _validation, *, alphas, settings):
        asked.append((alphas, settings))
        clock[0] += 2.0
        cell = SimpleNamespace(layer=len(asked), alpha=1.5)
        return SimpleNamespace(best_outcome=SimpleNamespace(cell=cell, rank=RANKS[settings.lr]))

    monkeypatch.setattr(layer_sweep, "sweep_layers", sweep)
    monkeypatch.setattr(presets.time, "perf_counter", lambda: clock[0])
    return asked


def test_the_best_of_every_learning_rate_is_taken_and_all_their_seconds(model, asked):
    found = find_settings(PAPER, model, PROMPTS, PROMPTS)
    assert (found.layer, found.alpha, found.lr, found.rank) == (2, 1.5, 3e-4, 0.9)
    assert found.seconds == 6.0
    assert asked == [(PAPER.alphas, FinetuneConfig(layer=0, epochs=3, lr=lr)) for lr in PAPER.lrs]


def test_what_was_tried_is_not_tried_again_and_keeps_its_seconds(model, asked, tmp_path):
    first = find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)
    assert find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path) == first
    assert len(asked) == 3


def test_a_sweep_that_was_cut_short_goes_on_at_the_next_learning_rate(model, asked, tmp_path):
    class Stopping(Reporter):
        def stage(self, _name, done, _total):
            if done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(Stopping()):
        find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)
    found = find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)
    assert [settings.lr for _, settings in asked] == list(PAPER.lrs)
    assert (found.lr, found.seconds) == (3e-4, 6.0)


@pytest.mark.usefixtures("asked")
def test_a_sweep_of_other_prompts_is_refused_and_a_damaged_file_named(model, tmp_path):
    find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)
    with pytest.raises(UserError, match=r"another comparison \(differs in: train prompts\)"):
        find_settings(PAPER, model, planted_prompts(3), PROMPTS, folder=tmp_path)
    (tmp_path / SWEEP_FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)


def test_a_sweep_that_an_older_version_kept_goes_on(model, asked, tmp_path):
    find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)
    header, *lines = map(json.loads, (tmp_path / SWEEP_FILE).read_text().splitlines())
    (tmp_path / SWEEP_FILE).unlink()
    older = {"about": header["about"], "tried": lines[:2]}
    (tmp_path / PRESET_FILE).write_text(json.dumps(older))
    found = find_settings(PAPER, model, PROMPTS, PROMPTS, folder=tmp_path)
    assert len(asked) == 4
    assert (found.lr, found.seconds) == (3e-4, 6.0)
    (tmp_path / SWEEP_FILE).unlink()
    with pytest.raises(UserError, match="another comparison"):
        find_settings(PAPER, model, planted_prompts(3), PROMPTS, folder=tmp_path)
