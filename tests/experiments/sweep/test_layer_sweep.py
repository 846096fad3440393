"""A sweep trains each cell exactly as `finetune_layer` alone does, and the best outcome wins.

Whatever cuts it short, the same call goes on from there and ends with what an uninterrupted sweep
ends with; the model stays as it was.
"""

import json
from dataclasses import replace

import pytest
import torch

from actor_lens.activations import filling
from actor_lens.activations.store import Store
from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.errors import UserError
from actor_lens.experiments.sweep import cells, tally
from actor_lens.experiments.sweep.cells import CellOutcome, SweepCell
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.progress import reporting
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun
from actor_lens.training.safety_floor import Refusals, ValidationChecks
from tests.support.reports import Recorder
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
VALIDATION = tiny_prompts(4, offset=20)
SETTINGS = FinetuneConfig(layer=0, epochs=2, batch_size=4)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture
def pseudo_harmful_refused(monkeypatch):
    """Let each layer's checks say what they are told to, whatever the weights."""

    def script(shares):
        def refusals(checks, _block):
            hits = {"harmful": 4, "pseudo_harmful": 4 * shares[checks.inputs.layer], "benign": 0}
            verdicts = []
            for label in VALIDATION.labels:
                hits[label] -= 1
                verdicts.append(hits[label] >= 0)
            return Refusals(VALIDATION, tuple(verdicts))

        monkeypatch.setattr(ValidationChecks, "refusals", refusals)

    return script


def sweep_of(model, layers, **options):
    options = {"validation": VALIDATION, "tokens": TOKENS, "settings": SETTINGS, **options}
    return sweep_layers(model, tiny_prompts(), layers=layers, **options)


def alone(model, layer, **options):
    return finetune_layer(
        model,
        tiny_prompts(),
        layer=layer,
        epochs=2,
        batch_size=4,
        validation=VALIDATION,
        tokens=TOKENS,
        **options,
    )


@pytest.mark.parametrize("safety_floor", [None, 0.3])
def test_each_cell_is_trained_as_it_would_be_alone(model, safety_floor):
    before = copied_tensors(model)
    settings = replace(SETTINGS, safety_floor=safety_floor)
    for layer in range(model.n_layers):
        for alpha, seed in ((1.0, 0), (0.5, 3)):
            sweep = sweep_of(model, [layer], alphas=[alpha], seeds=[seed], settings=settings)
            run = alone(model, layer, alpha=alpha, seed=seed, safety_floor=safety_floor)
            assert same_bits(dict(sweep.best.state), dict(run.state))
            assert sweep.best.config == run.config
            (outcome,) = sweep.outcomes
            shown = {0: run.refused_before} | {s.step: s.refused for s in run.history if s.refused}
            assert outcome.refused == shown[run.best_step]
    assert same_bits(before, copied_tensors(model))


def test_learning_rates_are_tried_with_each_cell(model, tmp_path):
    sweep = sweep_of(model, [1, 2], lrs=(1e-3, 1e-2), folder=tmp_path)
    assert list(sweep.frame()["lr"]) == [1e-3, 1e-2, 1e-3, 1e-2]
    best = alone(model, sweep.best.layer, lr=sweep.best.config.lr)
    assert same_bits(dict(sweep.best.state), dict(best.state))
    again = sweep_of(model, [2], lrs=(1e-2,), folder=tmp_path)
    assert again.outcomes == sweep.outcomes[-1:]
    assert "lr" not in sweep_of(model, [1]).frame()


def test_one_sweep_over_all_layers_is_the_layers_one_by_one(model):
    whole = sweep_of(model, None, alphas=[0.5, 1.0], seeds=[0, 1])
    assert [one.cell.values() for one in whole.outcomes] == [
        {"layer": layer, "alpha": alpha, "seed": seed}
        for layer in range(model.n_layers)
        for alpha in (0.5, 1.0)
        for seed in (0, 1)
    ]
    for layer in range(model.n_layers):
        part = sweep_of(model, [layer], alphas=[0.5, 1.0], seeds=[0, 1])
        mine = [one for one in whole.outcomes if one.cell.layer == layer]
        assert [(o.refused, o.loss) for o in mine] == [(o.refused, o.loss) for o in part.outcomes]


def test_the_best_trade_off_wins(model, pseudo_harmful_refused):
    pseudo_harmful_refused({0: 0.5, 1: 0.0, 2: 0.25, 3: 0.75})
    sweep = sweep_of(model, [3, 2, 1, 0])
    assert sweep.best.layer == 1
    assert "layer 1 had the best first-token trade-off score" in sweep.reason
    assert "benign ones refused: 1.000; layer 2 had 0.875 (" in sweep.reason
    assert "layer 0" not in sweep.reason
    frame = sweep.frame().set_index("layer")
    assert frame["tradeoff_score"].to_dict() == {3: 0.625, 2: 0.875, 1: 1.0, 0: 0.75}
    assert frame.loc[2, "refused_pseudo_harmful"] == 0.25
    assert frame.loc[2, "refused_pseudo_harmful_low"] < 0.25
    assert frame.loc[2, "refused_pseudo_harmful_high"] > 0.25


def outcome(layer, pseudo_harmful, benign=0, **fields):
    """A cell that refuses all of 40 harmful prompts and some of 40 of each other label."""
    verdicts = {
        "harmful": [True] * 40,
        "pseudo_harmful": [place < pseudo_harmful for place in range(40)],
        "benign": [place < benign for place in range(40)],
    }
    shares = {label: sum(hits) / len(hits) for label, hits in verdicts.items()}
    fields = {"refused": shares, "verdicts": verdicts, **fields}
    return CellOutcome(SweepCell(layer, 1.0, 0), "completed", **fields)


@pytest.fixture(scope="module")
def chosen(model):
    sweep = sweep_of(model, [0])
    return lambda *outcomes, before=None: replace(sweep, outcomes=outcomes).choice(before)


def test_the_choice_is_that_of_the_outcomes_with_the_interval_of_the_difference(chosen):
    scored = LayerChoice(5, "causal", "layer 5 ties", (4, 5))
    choice = chosen(outcome(5, 3), outcome(4, 1), outcome(2, 30), outcome(3, 2), before=scored)
    assert (choice.layer, choice.by, choice.ties) == (4, "outcomes", (3, 4, 5))
    assert "layer 3 had 0.975 (difference 0.013, " in choice.reason
    assert "layer 5, recommended before by the causal score, had 0.963 (diff" in choice.reason
    assert "layer 2" not in choice.reason

    # Two of 40 changed sides in one label, none in the other; one more pair on either side each.
    halves = [
        1.96 * ((total / 42 - (value / 42) ** 2) / 42) ** 0.5 for value, total in ((2, 4), (0, 2))
    ]
    lows = [2 / 42 - halves[0], -halves[1], -halves[1]]
    below = ((2 / 40 - lows[0]) ** 2 + lows[1] ** 2 + lows[2] ** 2) ** 0.5 / 2
    lead = outcome(4, 1).lead(outcome(5, 3))
    assert (lead.value, lead.low) == pytest.approx((0.025, 0.025 - below), abs=1e-4)
    assert f"95 % interval \u2212{-lead.low:.3f} to {lead.high:.3f}" in choice.reason


def test_benign_refusals_count_in_the_difference_as_in_the_rank(chosen):
    one, other = outcome(4, 1), outcome(5, 1, benign=40)
    assert one.lead(other).value == pytest.approx(one.rank - other.rank) == 0.5
    assert chosen(one, other).ties == (4,)


def test_what_does_equally_well_leaves_the_choice_to_the_layer_tried_first(chosen):
    assert chosen(outcome(5, 3), outcome(4, 3)).layer == 5
    older = outcome(4, 1, verdicts={}), outcome(5, 3, verdicts={})
    assert older[0].lead(older[1]) is None
    assert chosen(*older).ties == (4,)
    assert "interval" not in chosen(*older).reason


def test_ties_go_to_the_first(model, pseudo_harmful_refused):
    pseudo_harmful_refused({1: 0.25, 2: 0.25})
    assert sweep_of(model, [2, 1]).best.layer == 2
    assert sweep_of(model, [1, 2]).best.layer == 1


def test_whole_replies_decide_where_they_were_judged(model, pseudo_harmful_refused, monkeypatch):
    pseudo_harmful_refused({0: 0.0, 1: 0.25, 2: 0.5})
    by_layer = iter([0.75, 0.25])  # of the two best by first token: layers 0 and 1

    def shares(_evaluation):
        return {"harmful": 1.0, "pseudo_harmful": next(by_layer), "benign": 0.0}

    monkeypatch.setattr(tally, "_shares", shares)
    sweep = sweep_of(model, [0, 1, 2], judge_best=2, new_tokens=2)
    assert sweep.best.layer == 1
    assert [bool(outcome.reply_refused) for outcome in sweep.outcomes] == [True, True, False]
    assert "first-token" not in sweep.reason
    assert "layer 2" not in sweep.reason


def test_another_judge_judges_a_continued_sweep_anew(model, tmp_path):
    one, other = (KeywordJudge(name, ("no reply says this",), ()) for name in ("one", "other"))
    for judge in (one, other, one):
        sweep = sweep_of(model, [0, 1, 2], judge_best=2, judge=judge, new_tokens=2, folder=tmp_path)
        judged = [outcome for outcome in sweep.outcomes if outcome.reply_refused]
        assert len(judged) == 2
        assert {outcome.reply_judge for outcome in judged} == {judge.identity}


def test_without_validation_prompts_the_lowest_loss_wins(model):
    sweep = sweep_of(model, None, validation=None, tokens=None)
    losses = {outcome.cell.layer: outcome.loss for outcome in sweep.outcomes}
    assert sweep.best.layer == min(losses, key=losses.__getitem__)
    assert sweep.refused_before == {}
    assert sweep.frame()["tradeoff_score"].isna().all()


def test_refusals_before_are_those_of_the_untrained_model(model):
    sweep = sweep_of(model, [2])
    assert sweep.refused_before == alone(model, 2).refused_before


def test_a_layer_that_cannot_be_trained_is_a_row_and_the_others_go_on(model, monkeypatch):
    real = cells.run_cell

    def run_cell(model, cell, *arguments, **options):
        if cell.layer == 1:
            inputs = arguments[1]
            broken = tuple(torch.full_like(x, float("nan")) for x in inputs.hidden_states)
            arguments = (arguments[0], replace(inputs, hidden_states=broken), *arguments[2:])
        return real(model, cell, *arguments, **options)

    monkeypatch.setattr(cells, "run_cell", run_cell)
    sweep = sweep_of(model, [0, 1, 2])
    assert [outcome.status for outcome in sweep.outcomes] == ["completed", "failed", "completed"]
    assert "not finite" in sweep.frame().loc[1, "message"]
    assert sweep.best.layer in (0, 2)
    with pytest.raises(UserError, match="no layer could be trained"):
        sweep_of(model, [1])


class TestFolder:
    def test_a_sweep_that_was_interrupted_goes_on_where_it_was(self, model, tmp_path):
        whole = sweep_of(model, None)
        seen = []

        def interrupt(outcome):
            seen.append(outcome.cell.layer)
            if len(seen) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep_of(model, None, folder=tmp_path, on_outcome=interrupt)
        trained_now = []
        resumed = sweep_of(
            model, None, folder=tmp_path, on_outcome=lambda one: trained_now.append(one.cell.layer)
        )
        assert seen == [0, 1]
        assert trained_now == [2, 3]
        assert _results(resumed) == _results(whole)
        assert same_bits(dict(resumed.best.state), dict(whole.best.state))
        assert resumed.refused_before == whole.refused_before

    def test_a_finished_sweep_trains_nothing_again(self, model, tmp_path, monkeypatch):
        first = sweep_of(model, None, folder=tmp_path)
        monkeypatch.setattr(cells, "run_cell", None)
        again = sweep_of(model, None, folder=tmp_path)
        assert _results(again) == _results(first)
        assert same_bits(dict(again.best.state), dict(first.best.state))
        assert again.refused_before == pytest.approx(first.refused_before)
        saved = TrainingRun.load(tmp_path / "best")
        assert same_bits(dict(saved.state), dict(first.best.state))

    def test_a_torn_line_costs_one_cell(self, model, tmp_path):
        first = sweep_of(model, None, folder=tmp_path)
        notes = tmp_path / "sweep.jsonl"
        notes.write_bytes(notes.read_bytes()[:-30])
        trained_now = []
        again = sweep_of(
            model, None, folder=tmp_path, on_outcome=lambda one: trained_now.append(one.cell.layer)
        )
        assert trained_now == [3]
        assert _results(again) == _results(first)
        assert _results(sweep_of(model, None, folder=tmp_path)) == _results(first)

    def test_the_best_run_is_trained_again_where_its_folder_is_lost(self, model, tmp_path):
        first = sweep_of(model, None, folder=tmp_path)
        (tmp_path / "best" / "block.safetensors").write_bytes(b"")
        again = sweep_of(model, None, folder=tmp_path)
        assert same_bits(dict(again.best.state), dict(first.best.state))
        assert TrainingRun.load(tmp_path / "best").config == first.best.config

    def test_the_folder_holds_the_best_run_whatever_the_judge_decides(
        self, model, tmp_path, pseudo_harmful_refused, monkeypatch
    ):
        pseudo_harmful_refused({0: 0.0, 1: 0.25})
        by_layer = iter([0.75, 0.25])
        monkeypatch.setattr(
            tally,
            "_shares",
            lambda _: {"harmful": 1.0, "pseudo_harmful": next(by_layer), "benign": 0.0},
        )
        sweep = sweep_of(model, [0, 1], judge_best=2, new_tokens=2, folder=tmp_path)
        assert sweep.best.layer == TrainingRun.load(tmp_path / "best").layer == 1

    @pytest.mark.parametrize(
        ("changed", "named"),
        [
            ({"settings": replace(SETTINGS, lr=2e-3)}, "settings"),
            ({"validation": tiny_prompts(4, offset=40)}, "validation"),
            ({"tokens": RefusalTokens((4,), ("",))}, "refusal tokens"),
        ],
    )
    def test_a_folder_of_another_sweep_is_refused(self, model, tmp_path, changed, named):
        sweep_of(model, [0], folder=tmp_path)
        with pytest.raises(UserError, match=rf"another sweep .*differs in: {named}"):
            sweep_of(model, [0], folder=tmp_path, **changed)

    def test_more_layers_can_be_added_to_a_folder(self, model, tmp_path):
        sweep_of(model, [1], folder=tmp_path)
        added = sweep_of(model, [1, 2], folder=tmp_path)
        assert _results(added) == _results(sweep_of(model, [1, 2]))

    def test_notes_hold_no_prompt(self, model, tmp_path):
        sweep_of(model, [0], folder=tmp_path)
        text = (tmp_path / "sweep.jsonl").read_text()
        assert json.loads(text.splitlines()[1])["cell"] == vars(SweepCell(0, 1.0, 0))
        assert not any(prompt in text for prompt in tiny_prompts().texts)


class TestMemory:
    def test_layers_that_do_not_fit_at_once_are_collected_in_groups(self, model, monkeypatch):
        whole = sweep_of(model, None, store=False)
        collected = []
        real = cells.collect_activations

        def collect(*arguments, block_inputs, **options):
            collected.append(list(block_inputs))
            return real(*arguments, block_inputs=block_inputs, **options)

        monkeypatch.setattr(cells, "collect_activations", collect)
        monkeypatch.setattr(cells.SweepWork, "_layers_that_fit", lambda _self: 3)
        streamed = sweep_of(model, None, store=False)
        assert collected == [[0, 1, 2], [0, 1, 2], [3], [3]]  # train and validation prompts
        assert _results(streamed) == _results(whole)

    def test_how_many_fit_follows_from_the_free_memory(self, model, monkeypatch):
        ids = model.tokenize([*tiny_prompts().texts, *VALIDATION.texts])
        one_layer = sum(map(len, ids)) * model.d_model * 4
        groups = []
        real = cells.collect_activations

        def collect(*arguments, block_inputs, **options):
            groups.append(len(list(block_inputs)))
            return real(*arguments, block_inputs=block_inputs, **options)

        monkeypatch.setattr(cells, "collect_activations", collect)
        monkeypatch.setattr(cells, "free_memory", lambda _device: int(2.5 * one_layer / 0.4))
        sweep_of(model, None, store=False)
        assert groups == [2, 2, 2, 2]

    def test_a_store_that_is_too_small_is_done_without(self, model, tmp_path, monkeypatch):
        whole = sweep_of(model, None, store=False)
        monkeypatch.setattr(cells.SweepWork, "_layers_that_fit", lambda _self: 2)
        monkeypatch.setattr(filling, "free_memory", lambda _device: 90_000)
        with pytest.warns(UserWarning, match="exceeds the limit"):
            small = sweep_of(model, None, store=Store(tmp_path, limit=1000))
        assert _results(small) == _results(whole)

    def test_with_a_store_the_second_sweep_runs_no_pass(self, model, tmp_path, monkeypatch):
        store = Store(tmp_path)
        first = sweep_of(model, None, store=store)
        monkeypatch.setattr(filling, "run_in_batches", None)
        assert _results(sweep_of(model, None, store=store)) == _results(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "at least one layer"),
        ({"layers": [9]}, "layer 9 is out of range"),
        ({"layers": [0], "alphas": [0.0]}, "alpha"),
        ({"layers": [0], "validation": VALIDATION[:0]}, "validation prompts are empty"),
        ({"layers": [0], "engine": "cloud"}, "engine 'cloud' is not known; use one of local, ray"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_work(model, monkeypatch, options, message):
    monkeypatch.setattr(cells, "collect_activations", None)
    with pytest.raises(UserError, match=message):
        sweep_of(model, **options)


def test_progress_counts_cells_and_seconds_add_up(model):
    recorder = Recorder()
    with reporting(recorder):
        sweep = sweep_of(model, [0, 1])
    assert [stage for stage in recorder.stages if stage[0] == "layers tried"] == [
        ("layers tried", 1, 2),
        ("layers tried", 2, 2),
    ]
    for name in ("train", "score"):
        total = sum(outcome.seconds[name] for outcome in sweep.outcomes)
        assert sweep.seconds[name] == pytest.approx(total)
    assert sweep.seconds["collect"] > 0


def test_a_settled_choice_keeps_its_ties_and_says_both_reasons():
    choice = LayerChoice(5, "causal", "layers 4 and 5 tie", (4, 5))
    assert choice.tried_order == (5, 4)
    settled = choice.settled(4, "each was trained")
    assert (settled.layer, settled.ties, settled.by) == (4, (4, 5), "causal")
    assert settled.reason == "layers 4, 5 tie on the causal score; each was trained"


def _results(sweep):
    return [(o.cell, o.status, o.loss, dict(o.refused)) for o in sweep.outcomes]


def test_a_sweep_shows_itself_in_two_lines(model):
    sweep = sweep_of(model, [2])
    assert repr(sweep).startswith("LayerSweep: 1 cell on ")
    assert len(repr(sweep).splitlines()) == 2
    assert not any(text in sweep._repr_html_() for text in tiny_prompts().texts)
