"""The identity of a model is that of its weights as they are now, to the last bit.

It changes with any element of any tensor and comes back when the bits come back.
"""

import pytest
import torch

from actor_lens.models.weights import overwritten
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits


@pytest.fixture
def model():
    return tiny_chat_model()


def test_two_models_of_the_same_weights_are_the_same():
    assert tiny_chat_model().identity == tiny_chat_model().identity
    assert tiny_chat_model(seed=1).identity != tiny_chat_model().identity


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_any_single_element_changes_it_and_restoring_brings_it_back(model, name):
    before, tensor = model.identity, model.hf.state_dict()[name]
    flat = tensor.view(-1)
    for place in (0, 1, len(flat) - 1):
        kept = flat[place].clone()
        flat[place] = torch.nextafter(kept, kept + 1)
        changed = model.identity
        flat[place] = kept
        assert changed != before
        assert model.identity == before


def test_weights_that_differ_below_bfloat16_are_other_weights():
    one, other = tiny_chat_model(), tiny_chat_model()
    weight = other.hf.state_dict()["model.layers.1.mlp.up_proj.weight"]
    weight.copy_(torch.nextafter(weight, torch.full_like(weight, 9.0)))
    assert torch.equal(
        weight.bfloat16(), one.hf.state_dict()["model.layers.1.mlp.up_proj.weight"].bfloat16()
    )
    assert one.identity != other.identity


def test_a_run_changes_it_while_applied(model):
    run, before = quick_run(model), model.identity
    with run.applied_to(model):
        applied = model.identity
    assert applied != before
    assert model.identity == before


def test_writing_past_torch_is_noticed_where_it_changes_a_whole_tensor(model):
    before = model.identity
    model.hf.state_dict()["model.norm.weight"].data.mul_(2)
    assert model.identity != before


def test_unchanged_tensors_are_read_in_full_only_once(model, monkeypatch):
    from actor_lens.models import weights

    _ = model.identity
    sizes = []
    real = weights.tensor_digest
    monkeypatch.setattr(weights, "tensor_digest", lambda t: sizes.append(t.numel()) or real(t))
    _ = model.identity
    assert max(sizes) < 2 * 1024


def test_other_values_stand_in_for_a_time_and_the_old_ones_come_back_bit_for_bit(model):
    name = f"{model.block_prefix(1)}mlp.up_proj.weight"
    before = copied_tensors(model)
    values = {name: torch.zeros_like(before[name])}

    def fail_inside():
        with overwritten(model.hf, values):
            inside = copied_tensors(model)
            assert not inside[name].any()
            assert all(torch.equal(inside[one], before[one]) for one in before if one != name)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert same_bits(copied_tensors(model), before)


def test_values_that_do_not_fit_leave_nothing_behind(model):
    before = copied_tensors(model)
    prefix = model.block_prefix(1)
    values = {
        f"{prefix}mlp.up_proj.weight": torch.zeros(1),
        f"{prefix}mlp.down_proj.weight": torch.zeros(3, 3),
    }
    with pytest.raises(RuntimeError), overwritten(model.hf, values):
        pass
    assert same_bits(copied_tensors(model), before)
