"""The token budget follows the free memory, never exceeds its cap, and is at least one token."""

import pytest
import torch

from actor_lens.models import memory
from actor_lens.models.memory import free_memory, is_out_of_memory, token_budget
from tests.support.tiny_models import tiny_chat_model

MODEL = tiny_chat_model()


def budget(monkeypatch, free, longest=10, cap=10**9):
    monkeypatch.setattr(memory, "free_memory", lambda _device: free)
    return token_budget(MODEL, longest, cap=cap)


def test_twice_the_memory_holds_twice_the_tokens(monkeypatch):
    assert budget(monkeypatch, 2 * 10**9) == pytest.approx(2 * budget(monkeypatch, 10**9), rel=1e-3)


def test_longer_prompts_need_more_memory_a_token(monkeypatch):
    assert budget(monkeypatch, 10**9, longest=1000) < budget(monkeypatch, 10**9, longest=10)


def test_a_pass_of_the_budget_fits_into_the_free_memory(monkeypatch):
    """Counted by hand for eager attention: scores and their softmax in every head, MLP, states."""
    tokens = budget(monkeypatch, 10**8, longest=50)
    config = MODEL.hf.config
    scores = 2 * 4 * config.num_attention_heads * 50
    states = 4 * (3 * config.intermediate_size + 8 * config.hidden_size)
    assert tokens * (scores + states) < 10**8


def test_the_cap_and_one_token_are_the_ends(monkeypatch):
    assert budget(monkeypatch, 10**12, cap=77) == 77
    assert budget(monkeypatch, 0) == 1


def test_what_a_container_leaves_is_what_is_free(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    cpu = torch.device("cpu")
    whole = free_memory(cpu)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert free_memory(cpu) == 2_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(cpu) > 10 * 2_500_000
    assert whole > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_the_cpu_allocator_says_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
