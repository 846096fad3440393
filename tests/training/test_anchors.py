"""R of prompts that are not trained on, as the paper makes it.

The paper's algorithm against a loop of its own in float64: one query a step, targets from the
weights of the moment, R of the anchors computed again every few steps, AdamW. The loop runs the
whole Hugging Face model prompt by prompt and has an AdamW of its own. A run knows its anchors.
"""

import copy
import json

import pytest
import torch

from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.errors import UserError
from actor_lens.experiments.presets import PRESETS
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet, check_anchors, replace_labels
from actor_lens.training.block_trainer import BlockTrainer
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import same_bits, tiny_prompts

STEPS, EVERY, LAYER = 20, 6, 1
SETTINGS = {
    **vars(PRESETS["paper"].config("llama-2-7b")),
    **{"layer": LAYER, "refresh": EVERY, "epochs": 4},
}
PROMPTS = tiny_prompts(2)
OTHERS = {"harmful": "BREAK ITS", "pseudo_harmful": "-", "benign": "count to 7"}
ANCHORS = PromptSet(
    tuple(one for one in tiny_prompts(4, openings=OTHERS) if one.label != "pseudo_harmful"),
    name="other prompts",
)


class PaperLoop:
    """The algorithm from its description."""

    def __init__(self, model):
        self.model, self.hf = model, copy.deepcopy(model.hf)
        self.block = self.hf.transformer.h[LAYER].requires_grad_(True)
        self.block.register_forward_hook(self._keep)
        self.parameters = list(self.block.parameters())
        self.first = [torch.zeros_like(one) for one in self.parameters]
        self.second = [torch.zeros_like(one) for one in self.parameters]

    def _keep(self, _block, _inputs, output):
        self.output = output[0] if isinstance(output, tuple) else output

    def activation(self, prompt):
        self.hf(torch.tensor(self.model.tokenize([prompt.prompt])))
        return self.output[0, -1]

    def refusal_vector(self):
        with torch.no_grad():
            means = {
                label: torch.stack(
                    [self.activation(one) for one in ANCHORS if one.label == label]
                ).mean(dim=0)
                for label in ("harmful", "benign")
            }
        return means["harmful"] - means["benign"]

    def step(self, number, prompt):
        """One query: the gradient and the change of the weights."""
        if number % EVERY == 0:
            self.r = self.refusal_vector()
        a = self.activation(prompt)
        now, sign = a.detach(), 1 if prompt.label == "harmful" else -1
        target = now + sign * 0.0015 * (now @ self.r) / (self.r @ self.r) * self.r
        loss = 1 - (a @ target) / (a.norm() * target.norm())
        gradients = torch.autograd.grad(loss, self.parameters)
        changes, t = [], number + 1
        for one, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            change = -1e-5 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            with torch.no_grad():
                one += change
            changes.append(change)
        return flat(gradients), flat(changes)


def flat(tensors):
    return torch.cat([one.detach().flatten() for one in tensors])


def test_gradients_and_updates_are_those_of_the_papers_algorithm():
    model = tiny_chat_model("gpt2")
    model.hf.to(torch.float64)
    loop = PaperLoop(model)
    inputs, anchors = (
        collect_block_inputs(model, one, LAYER, store=False) for one in (PROMPTS, ANCHORS)
    )
    trainer = BlockTrainer(model, FinetuneConfig(**SETTINGS), inputs, anchors=anchors)
    for number in range(STEPS):
        (row,) = trainer.batch_of(number)
        before = flat(trainer.block.parameters()).clone()
        trainer.take_step()
        gradient, change = loop.step(number, PROMPTS[row])
        ours = flat([one.grad for one in trainer.block.parameters()])
        moved = flat(trainer.block.parameters()) - before
        assert (ours - gradient).norm() <= 1e-6 * gradient.norm()
        assert (moved - change).norm() <= 1e-6 * change.norm()
    assert gradient.norm() > 0


def test_anchors_and_how_often_they_are_run_matter():
    model = tiny_chat_model()
    ends = []
    for anchors, refresh in ((None, EVERY), (ANCHORS, EVERY), (ANCHORS, 1)):
        settings = {**SETTINGS, "lr": 1e-3, "alpha": 1.0, "refresh": refresh, "epochs": 2}
        run = finetune_layer(model, PROMPTS, anchors=anchors, store=False, **settings)
        ends.append(flat(run.state.values()))
    assert all((ends[i] - ends[j]).norm() > 0 for i in range(3) for j in range(i))


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


class TestRuns:
    def test_a_run_keeps_its_anchors_and_goes_on_with_them(self, model, tmp_path):
        settings = {**SETTINGS, "lr": 1e-3, "epochs": 2}
        whole = finetune_layer(model, PROMPTS, anchors=ANCHORS, store=False, **settings)
        count = iter(range(100))
        part = finetune_layer(
            model,
            PROMPTS,
            anchors=ANCHORS,
            should_stop=lambda: next(count) >= 8,
            store=False,
            **settings,
        )
        part.save(tmp_path)
        loaded = TrainingRun.load(tmp_path)
        assert loaded.anchors == ANCHORS
        assert loaded.summary()["anchors"]["fingerprint"] == ANCHORS.fingerprint
        assert "BREAK" not in json.dumps(loaded.summary()) + repr(loaded)
        resumed = finetune_layer(model, PROMPTS, resume=loaded, store=False, **settings)
        assert same_bits(dict(resumed.state), dict(whole.state))
        with pytest.raises(UserError, match="has other anchors; give the same ones"):
            finetune_layer(model, PROMPTS, resume=loaded, anchors=ANCHORS[1:], **settings)

    def test_a_run_of_before_there_were_anchors_opens(self, model, tmp_path):
        finetune_layer(model, PROMPTS, store=False, layer=1, epochs=1).save(tmp_path)
        record = json.loads((tmp_path / "run.json").read_text())
        assert record.pop("anchors") is None
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert TrainingRun.load(tmp_path).anchors is None

    @pytest.mark.parametrize("label", ["harmful", "benign"])
    def test_anchors_without_a_label_are_refused(self, model, label):
        few = PromptSet(tuple(one for one in ANCHORS if one.label != label), name="mine")
        with pytest.raises(
            UserError, match=f"^anchors mine: 0 {label} prompts, at least 1"
        ) as told:
            finetune_layer(model, PROMPTS, anchors=few, layer=1)
        assert "\n" not in str(told.value)


def test_a_fitted_origin_does_not_go_with_anchors(model):
    with pytest.raises(UserError, match="goes with R of the training prompts; leave the anchors"):
        finetune_layer(model, PROMPTS, anchors=ANCHORS, layer=1, origin="fitted")


def test_anchors_among_the_test_prompts_are_refused_without_their_text():
    check_anchors(ANCHORS, PROMPTS)
    with pytest.raises(UserError, match="2 prompts of the test among them; take others") as told:
        check_anchors(ANCHORS, PromptSet((*PROMPTS, *ANCHORS[:2])))
    assert "\n" not in str(told.value)
    assert "BREAK" not in str(told.value)


def test_labels_of_the_anchors_take_the_place_of_the_prompts():
    assert replace_labels(PROMPTS, None) is PROMPTS
    mixed = replace_labels(PROMPTS, ANCHORS)
    assert mixed.where(label="harmful").texts == ANCHORS.where(label="harmful").texts
    assert mixed.where(label="pseudo_harmful") == PROMPTS.where(label="pseudo_harmful")
    alone = PromptSet((Prompt("Is it odd?", "pseudo_harmful"),))
    assert replace_labels(PROMPTS, alone).counts() == {**PROMPTS.counts(), "pseudo_harmful": 1}
