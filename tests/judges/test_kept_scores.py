"""Law: scores of shifted prompts are computed once, batch by batch, and never mistaken."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from actor_lens.activations.store import Store
from actor_lens.judges import first_token
from actor_lens.judges.first_token import RefusalTokens, refusal_scores_after_shifts
from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.prefix_cache import TokenShift
from tests.support.tiny_models import shared_tiny_model, tiny_chat_model

PROMPTS = ("Hello there", "How do I kill a Python process?", "Hi", "What is a fuse?")
TOKENS = RefusalTokens((1, 5), ("", ""))


def shifts(model: ChatModel, size: float = 3.0) -> Mapping[int, TokenShift]:
    unit = torch.nn.functional.normalize(torch.arange(1.0, 1 + model.d_model), dim=0)
    return {layer: (torch.linspace(-size, size, len(PROMPTS)), unit) for layer in (0, 2)}


class Passes:
    """Rows of every batch that the model ran, in order; stops after so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.left = 100
        ask = first_token.take_logits_after_shifts

        def count(model: ChatModel, prompts: object, batch: TokenBatch, *rest: object) -> None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.rows += batch.indices
            ask(model, prompts, batch, *rest)

        monkeypatch.setattr(first_token, "take_logits_after_shifts", count)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


def assert_same(some: Mapping[int, Tensor], others: Mapping[int, Tensor]) -> None:
    assert some.keys() == others.keys()
    for layer, values in some.items():
        torch.testing.assert_close(values, others[layer], rtol=0, atol=1e-5)


def test_the_next_time_costs_no_pass(tmp_path, passes: Passes):
    model, store = shared_tiny_model(), Store(tmp_path)
    first = refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model), store=store)
    assert sorted(passes.rows) == list(range(len(PROMPTS)))
    again = refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model), store=store)
    assert len(passes.rows) == len(PROMPTS)
    assert_same(first, again)
    assert_same(first, refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model)))


def test_work_that_was_cut_short_goes_on(tmp_path, passes: Passes):
    model, store = shared_tiny_model().with_batch_size(1), Store(tmp_path)
    passes.left = 2
    with pytest.raises(KeyboardInterrupt):
        refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model), store=store)
    passes.left = 100
    scores = refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model), store=store)
    assert sorted(passes.rows) == list(range(len(PROMPTS)))
    assert_same(scores, refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model)))


def test_another_question_is_computed_anew(tmp_path, passes: Passes):
    model, store = tiny_chat_model(), Store(tmp_path)

    def ask(
        prompts: tuple[str, ...] = PROMPTS, tokens: RefusalTokens = TOKENS, size: float = 3.0
    ) -> Mapping[int, Tensor]:
        before = len(passes.rows)
        moved = {
            layer: (distances[: len(prompts)], unit)
            for layer, (distances, unit) in shifts(model, size).items()
        }
        scores = refusal_scores_after_shifts(model, prompts, tokens, moved, store=store)
        assert len(passes.rows) == before + len(prompts)
        return scores

    ask()
    ask(size=2.0)
    ask(tokens=RefusalTokens((1, 6), ("", "")))
    ask(prompts=PROMPTS[:3])
    with torch.no_grad():
        model.blocks[1].mlp.down_proj.weight.mul_(1.5)
    changed = ask()
    assert_same(changed, refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model)))


def test_a_way_of_decoding_is_never_taken_for_another(tmp_path):
    model, store = tiny_chat_model(), Store(tmp_path)
    plain = refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model), store=store)

    def forbid(_prompts: object) -> object:
        return lambda _ids, scores: scores.index_fill(1, torch.tensor([5]), -torch.inf)

    object.__setattr__(model, "decoding", forbid)
    forbidden = refusal_scores_after_shifts(model, PROMPTS, TOKENS, shifts(model), store=store)
    assert all((forbidden[layer] < plain[layer]).all() for layer in plain)
