"""A batch is padded on the left and masked, and positions count from the first real token."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.models.padding import left_padding, pad_batch

CPU = torch.device("cpu")
PAD = 7
# The padding id is allowed inside prompts: masks must come from lengths, not from ids.
PROMPTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=20)


@given(token_ids=PROMPTS)
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
