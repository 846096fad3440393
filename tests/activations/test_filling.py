"""What comes from the store is what would be computed, and what would differ never comes from it.

An interrupted collection goes on with the prompts that are missing. A store that cannot be used or
is damaged is told of, and the results are right all the same.
"""

import pytest
import torch

from actor_lens.activations import filling
from actor_lens.activations.filling import TooLargeForMemory
from actor_lens.activations.residuals import collect_activations, collect_residuals
from actor_lens.activations.store import Store, StoreWarning
from actor_lens.models.interventions import shift_last_token
from actor_lens.progress import Reporter, reporting, stage
from tests.support.reports import Recorder
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import quick_run, tiny_prompts

PROMPTS = tiny_prompts(5)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def rows_run(monkeypatch):
    """How many prompts go through the model, batch by batch."""
    counts = []
    real = filling.run_in_batches

    def run_in_batches(model, token_ids, run, **options):
        def counted(batch):
            counts.append(len(batch.indices))
            run(batch)

        real(model, token_ids, counted, **options)

    monkeypatch.setattr(filling, "run_in_batches", run_in_batches)
    return counts


def everything(model, store):
    found = collect_activations(model, PROMPTS, block_inputs=[0, 2], store=store)
    inputs = [x for layer in (0, 2) for x in found.block_inputs[layer].hidden_states]
    return [found.residuals.values, *inputs]


def same(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_stored_activations_are_those_that_were_computed(architecture, store, rows_run):
    model = shared_tiny_model(architecture)
    computed = everything(model, False)
    assert same(everything(model, store), computed)
    rows_run.clear()
    assert same(everything(model, store), computed)
    assert rows_run == []


def test_one_pass_gives_what_separate_passes_give(model, store, rows_run):
    together = everything(model, store)
    rows_run.clear()
    alone = collect_residuals(model, PROMPTS, store=False)
    assert torch.equal(together[0], alone.values)
    deep = collect_activations(model, PROMPTS, residuals=False, block_inputs=[0, 2], store=False)
    separate = [x for layer in (0, 2) for x in deep.block_inputs[layer].hidden_states]
    for one, other in zip(together[1:], separate, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_bfloat16_activations_keep_their_bits(store):
    model = tiny_chat_model("llama", seed=4)
    model.hf.to(torch.bfloat16)
    computed = everything(model, False)
    assert computed[1].dtype == torch.bfloat16
    assert same(everything(model, store), computed)
    assert same(everything(model, store), computed)


def test_more_layers_only_cost_what_is_missing(model, store, rows_run):
    everything(model, store)
    rows_run.clear()
    collect_activations(model, PROMPTS, block_inputs=[0, 1, 2], store=store)
    assert sum(rows_run) == len(PROMPTS)
    rows_run.clear()
    collect_activations(model, PROMPTS, residuals=False, block_inputs=[1], store=store)
    assert rows_run == []


def test_labels_play_no_part_and_the_order_of_prompts_does(model, store, rows_run):
    everything(model, store)
    rows_run.clear()
    turned = PROMPTS.select(list(reversed(range(len(PROMPTS)))))
    found = collect_residuals(model, turned, store=store)
    assert sum(rows_run) == len(PROMPTS)
    torch.testing.assert_close(
        found.values, collect_residuals(model, PROMPTS, store=False).values.flip(1)
    )


def test_a_trained_model_does_not_get_the_activations_of_the_untrained_one(model, store):
    before = collect_residuals(model, PROMPTS, store=store).values
    with quick_run(model, layer=1, lr=1e-2).applied_to(model):
        after = collect_residuals(model, PROMPTS, store=store).values
        expected = collect_residuals(model, PROMPTS, store=False).values
    assert torch.equal(after, expected)
    assert not torch.equal(after, before)
    assert torch.equal(collect_residuals(model, PROMPTS, store=store).values, before)


def test_under_hooks_the_store_is_neither_read_nor_written(model, store):
    plain = collect_activations(model, PROMPTS, residuals=False, block_inputs=[3], store=store)
    entries = store.entries()
    far = 9 * torch.ones(len(PROMPTS), model.d_model)
    with shift_last_token(model, 1, far):
        moved = collect_activations(
            model.with_batch_size(99), PROMPTS, residuals=False, block_inputs=[2, 3], store=store
        )
    assert [entry.key for entry in store.entries()] == [entry.key for entry in entries]
    theirs, ours = moved.block_inputs[3].hidden_states[0], plain.block_inputs[3].hidden_states[0]
    assert not torch.allclose(theirs, ours)

    def double(residual, hook):  # noqa: ARG001
        return 2 * residual

    with model.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", double)]):
        assert model.is_hooked
        hooked = collect_residuals(model, PROMPTS, store=store)
    assert not model.is_hooked
    assert len(store.entries()) == len(entries)
    assert not torch.allclose(hooked.values, collect_residuals(model, PROMPTS, store=False).values)


def test_hooks_with_which_transformers_records_do_not_switch_the_store_off(store, rows_run):
    model = tiny_chat_model()
    ids = torch.tensor(model.tokenize(PROMPTS.texts[:1]))
    model.hf(input_ids=ids, output_hidden_states=True, output_attentions=True)
    assert any(block._forward_hooks for block in model.blocks)
    assert not model.is_hooked
    everything(model, store)
    rows_run.clear()
    everything(model, store)
    assert rows_run == []


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_collection_runs_only_what_is_missing(model, store, rows_run, after):
    model = model.with_batch_size(4)
    whole = everything(model, False)
    rows_run.clear()

    class Interrupter(Reporter):
        def stage(self, name, done, total):  # noqa: ARG002
            if done >= 4 * after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(Interrupter()), stage("first"):
        everything(model, store)
    assert sum(rows_run) == 4 * after
    rows_run.clear()
    recorder = Recorder()
    with reporting(recorder), stage("second"):
        resumed = everything(model, store)
    assert sum(rows_run) == len(PROMPTS) - 4 * after
    reports = recorder.parts("second")
    assert reports[0][0] > 4 * after
    assert reports[-1] == (len(PROMPTS), len(PROMPTS))
    assert same(resumed, whole)


def test_a_store_that_cannot_be_made_is_told_of_and_done_without(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(StoreWarning, match="results are kept in memory only"):
        found = everything(model, Store(tmp_path / "file" / "store"))
    assert same(found, everything(model, False))


def test_a_damaged_entry_is_told_of_and_computed_again(model, store):
    computed = [values.clone() for values in everything(model, store)]  # no longer the file's
    for path in store.folder.glob("*/array.bin"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.warns(StoreWarning, match="is damaged") as said:
        again = everything(model, store)
    assert len(said) == 3
    assert same(again, computed)
    assert same(everything(model, store), computed)


def test_entries_are_named_by_what_they_hold(model, store):
    """What is written under these identities is found by a later version that keeps them."""
    everything(model, store)
    common = {"model", "config", "model_name", "tokens", "prompts", "computed_in", "transformers"}
    identities = {entry.identity.get("layer"): entry.identity for entry in store.entries()}
    for layer, position in ((None, "last"), (0, "all"), (2, "all")):
        identity = dict(identities[layer])
        own = {name: identity.pop(name) for name in set(identity) - common}
        assert set(identity) == common
        kind = {"kind": "residuals"} if layer is None else {"kind": "block_inputs", "layer": layer}
        assert own == {**kind, "position": position, "dtype": "float32"}


def test_changes_of_a_result_stay_in_memory(model, store):
    computed = everything(model, store)
    everything(model, store)[0].zero_()
    assert same(everything(model, store), computed)


def test_no_prompt_is_in_any_file_of_the_store(model, store):
    everything(model, store)
    held = b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    for prompt in PROMPTS.texts:
        assert prompt.encode() not in held


def test_what_neither_store_nor_memory_can_hold_is_an_error(model, monkeypatch):
    monkeypatch.setattr(filling, "free_memory", lambda _device: 1000)
    with pytest.raises(TooLargeForMemory, match="do not fit into memory"):
        everything(model, False)
