"""Batches lose nothing: every prompt is in exactly one batch, its tokens on the right, unchanged.

Padding is on the left and masked, positions count from the first real token, and the longest
prompts come first. The expected tensors are written out here in plain Python lists.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.batching import batches_by_length, left_padding, pad_batch
from actor_lens.errors import UserError

CPU = torch.device("cpu")
PAD = 7
# The padding id is allowed inside prompts: masks must come from lengths, not from ids.
PROMPTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), max_size=20)


def batches(token_ids: list[list[int]], batch_size: int) -> list:
    return list(batches_by_length(token_ids, batch_size=batch_size, pad_token_id=PAD, device=CPU))


@given(token_ids=PROMPTS, batch_size=st.integers(1, 25))
def test_every_prompt_is_in_exactly_one_batch(token_ids, batch_size):
    indices = [index for batch in batches(token_ids, batch_size) for index in batch.indices]
    assert sorted(indices) == list(range(len(token_ids)))


@given(token_ids=PROMPTS, batch_size=st.integers(1, 25))
def test_all_batches_but_the_last_are_full(token_ids, batch_size):
    sizes = [len(batch.indices) for batch in batches(token_ids, batch_size)]
    full, rest = divmod(len(token_ids), batch_size)
    assert sizes == [batch_size] * full + ([rest] if rest else [])


@given(token_ids=PROMPTS, batch_size=st.integers(1, 25))
def test_rows_hold_padding_then_the_prompt(token_ids, batch_size):
    for batch in batches(token_ids, batch_size):
        width = max(len(token_ids[index]) for index in batch.indices)
        for row, index in enumerate(batch.indices):
            ids, empty = token_ids[index], width - len(token_ids[index])
            assert batch.input_ids[row].tolist() == [PAD] * empty + ids
            assert batch.attention_mask[row].tolist() == [0] * empty + [1] * len(ids)
            assert batch.position_ids[row].tolist() == [0] * empty + list(range(len(ids)))


@given(token_ids=PROMPTS, batch_size=st.integers(1, 25))
def test_the_longest_come_first(token_ids, batch_size):
    lengths = [
        len(token_ids[index]) for batch in batches(token_ids, batch_size) for index in batch.indices
    ]
    assert lengths == sorted(lengths, reverse=True)


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


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_an_error(batch_size):
    with pytest.raises(UserError, match=rf"batch size is {batch_size}; give a whole number"):
        batches([[1], [2]], batch_size)
