"""Passes lose nothing: every prompt is run exactly once, longest first, in batches that fit.

When memory runs out the batch is halved and run again, with one warning and the same results.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.models import batches as batches_module
from actor_lens.models.batches import MemoryWarning, left_padding, pad_batch, run_in_batches
from actor_lens.progress import reporting, stage
from tests.support.reports import Recorder
from tests.support.tiny_models import tiny_chat_model

PROMPTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), max_size=20)
# The padding id is allowed inside prompts: masks must come from lengths, not from ids.
SOME_PROMPTS = PROMPTS.filter(bool)
CPU, PAD = torch.device("cpu"), 7
MODEL = tiny_chat_model()
CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"


def batches(token_ids, batch_size=None, **options):
    seen = []
    run_in_batches(MODEL.with_batch_size(batch_size), token_ids, seen.append, **options)
    return seen


@given(token_ids=PROMPTS, batch_size=st.one_of(st.none(), st.integers(1, 25)))
def test_every_prompt_is_in_exactly_one_batch(token_ids, batch_size):
    found = [
        index for batch in batches(token_ids, batch_size=batch_size) for index in batch.indices
    ]
    assert sorted(found) == list(range(len(token_ids)))


@given(token_ids=PROMPTS, batch_size=st.integers(1, 25))
def test_all_batches_but_the_last_are_full(token_ids, batch_size):
    sizes = [len(batch.indices) for batch in batches(token_ids, batch_size=batch_size)]
    full, rest = divmod(len(token_ids), batch_size)
    assert sizes == [batch_size] * full + ([rest] if rest else [])


@given(token_ids=PROMPTS, batch_size=st.one_of(st.none(), st.integers(1, 25)))
def test_the_longest_come_first_and_rows_hold_padding_then_the_prompt(token_ids, batch_size):
    lengths = []
    for batch in batches(token_ids, batch_size=batch_size):
        lengths += [len(token_ids[index]) for index in batch.indices]
        for row, index in enumerate(batch.indices):
            ids = token_ids[index]
            empty = batch.input_ids.shape[1] - len(ids)
            assert batch.input_ids[row].tolist() == [MODEL.pad_token_id] * empty + ids
            assert batch.attention_mask[row].tolist() == [0] * empty + [1] * len(ids)
    assert lengths == sorted(lengths, reverse=True)


@given(token_ids=PROMPTS, budget=st.integers(1, 60), new_tokens=st.integers(0, 5))
def test_a_batch_holds_no_more_tokens_than_the_budget(token_ids, budget, new_tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "token_budget", lambda *_arguments, **_options: budget)
        found = batches(token_ids, new_tokens=new_tokens)
    for batch in found:
        n_prompts, longest = batch.input_ids.shape
        assert n_prompts == 1 or n_prompts * (longest + new_tokens) <= budget


def test_only_the_rows_asked_for_are_run_and_progress_counts_all():
    recorder = Recorder()
    ids = [[1] * length for length in (3, 1, 2, 5)]
    with reporting(recorder), stage("here"):
        seen = batches(ids, rows=[1, 3], batch_size=1)
    assert [batch.indices for batch in seen] == [(3,), (1,)]
    assert recorder.stages == [("here", 3, 4), ("here", 4, 4)]


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError(CPU_ALLOCATOR), MemoryError()]
)
def test_a_batch_that_does_not_fit_is_halved_with_one_warning(batch_size, error):
    done = []

    def run(batch):
        if len(batch.indices) > 3:
            raise error
        done.extend(batch.indices)

    ids = [[1] * (1 + number % 4) for number in range(16)]
    with pytest.warns(MemoryWarning, match="out of memory with 16 prompts of 4 tokens") as said:
        run_in_batches(MODEL.with_batch_size(batch_size), ids, run)
    assert len(said) == 1
    assert sorted(done) == list(range(16))


def test_a_single_prompt_that_does_not_fit_is_an_error():
    def run(_batch):
        raise torch.OutOfMemoryError

    with (
        pytest.warns(MemoryWarning),
        pytest.raises(UserError, match="not enough memory for one prompt of 2 tokens"),
    ):
        run_in_batches(MODEL, [[1, 2], [3, 4]], run)


def test_other_errors_pass_through():
    def run(_batch):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_in_batches(MODEL, [[1]], run)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_an_error(batch_size):
    with pytest.raises(UserError, match=rf"batch size is {batch_size}; .*at least 1"):
        MODEL.with_batch_size(batch_size)


# ---- Padding ----


@given(token_ids=SOME_PROMPTS)
def test_rows_hold_padding_then_the_prompt(token_ids):
    batch = pad_batch(token_ids, pad_token_id=PAD, device=CPU)
    width = max(map(len, token_ids))
    for row, ids in enumerate(token_ids):
        empty = width - len(ids)
        assert batch.input_ids[row].tolist() == [PAD] * empty + ids
        assert batch.attention_mask[row].tolist() == [0] * empty + [1] * len(ids)
        assert batch.position_ids[row].tolist() == [0] * empty + list(range(len(ids)))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10))
def test_left_padding_counts_what_is_real(lengths):
    mask, positions = left_padding(lengths, CPU)
    assert mask.sum(dim=1).tolist() == lengths
    assert positions[:, -1].tolist() == [length - 1 for length in lengths]
    assert mask[:, -1].tolist() == [1] * len(lengths)


def test_a_batch_numbers_its_prompts_from_zero_unless_told():
    ids = [[1], [2, 3]]
    assert pad_batch(ids, pad_token_id=PAD, device=CPU).indices == (0, 1)
    assert pad_batch(ids, pad_token_id=PAD, device=CPU, indices=[5, 2]).indices == (5, 2)


def test_tensors_are_whole_numbers():
    batch = pad_batch([[1], [2, 3]], pad_token_id=PAD, device=CPU)
    for tensor in (batch.input_ids, batch.attention_mask, batch.position_ids):
        assert tensor.dtype == torch.long
