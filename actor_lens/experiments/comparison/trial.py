"""One method with one seed: fitted, put to work, asked the test prompts, and what came of it."""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.evaluation.perplexity import perplexity
from actor_lens.experiments.comparison.method_costs import cost_of, seconds_per_token
from actor_lens.experiments.harmfulness import Harmfulness, harmfulness
from actor_lens.judges.base import Judge, Verdict
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.first_token import FirstTokenJudge, with_tokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.openings import refusal_openings
from actor_lens.methods import Method
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import is_out_of_memory
from actor_lens.models.replies import first_token_logits, kl_divergence
from actor_lens.progress import stage, warn
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import plain, versions

_NAN = float("nan")
# Benign test prompts on which the time for a token is measured.
_TIMED_PROMPTS = 16
_PLAIN = (str, int, float, bool, type(None))
_METHODS_MODULE = "actor_lens.methods."


Status = Literal["completed", "failed"]


@dataclass(frozen=True)
class MethodOutcome:
    """What came of a method with a seed.

    Attributes:
        method: Name of the method.
        seed: Seed that it was fitted with.
        seeded: Whether the method has a seed at all.
        status: ``"completed"`` or ``"failed"``.
        message: Reason of a failure.
        verdicts: Verdicts of the judge on the test prompts, in their order.
        replies: Replies as ``Evaluation.frame`` shows them: without answers to harmful prompts.
        settings: Every setting that the method was fitted with.
        chosen: Names of the settings that were chosen on validation prompts.
        trained_parameters: Number of parameters that were trained.
        seconds: ``fit`` and ``evaluate``.
        fit_bytes: Most memory of the fit, less what was in use before.
        kl: Mean Kullback-Leibler divergence of the first reply token from the untouched model on
            benign test prompts, in nats.
        token_cost: Time for a token of a reply, as a multiple of the untouched model's.
        perplexity: Multiple of the untouched model's; NaN where it was not asked for.
        harm_known: AUROC of harmful against pseudo-harmful test prompts at the end of the user's
            text, with its 95 % interval; NaN where it cannot be measured.
    """

    method: str
    seed: int
    seeded: bool
    status: Status
    message: str = ""
    verdicts: tuple[Verdict, ...] = field(default=(), repr=False)
    replies: tuple[str, ...] = field(default=(), repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    trained_parameters: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    fit_bytes: int = 0
    kl: float = _NAN
    token_cost: float = _NAN
    perplexity: float = _NAN
    harm_known: tuple[float, float, float] = (_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class KeptOutcome:
    """An entry of the ledger of a comparison.

    Attributes:
        method_settings: Settings that the method came with, as ``settings_of`` gives them.
        outcome: Outcome of the method.
    """

    method_settings: Mapping[str, Any]
    outcome: MethodOutcome


@dataclass(frozen=True, eq=False)
class ComparisonWork:
    """What all methods of a comparison share.

    Attributes:
        model: The untouched model; every method leaves it so.
        train: Training prompts.
        validation: Validation prompts.
        tested: Prompts that every method is asked.
        judge: Judge of replies, those that methods train on among them.
        new_tokens: Longest reply.
        text: A text to measure perplexity on; None to leave it out.
        anchors: Prompts that methods with that setting make their vectors of; None for the
            training prompts.
    """

    model: ChatModel
    train: PromptSet
    validation: PromptSet
    tested: PromptSet
    judge: Judge = field(default_factory=KeywordJudge)
    new_tokens: int = 64
    text: str | None = field(default=None, repr=False)
    anchors: PromptSet | None = None

    def about(self) -> dict[str, Any]:
        """What every outcome depends on, beside its method and seed."""
        return {
            "model": self.untouched,
            "system_prompt": self.model.system_prompt,
            "train_prompts": self.train.fingerprint,
            "validation_prompts": self.validation.fingerprint,
            "test_prompts": self.tested.fingerprint,
            "judge": self.judge.identity,
            "new_tokens": self.new_tokens,
            "text": None if self.text is None else hashlib.sha256(self.text.encode()).hexdigest(),
            # Work from before there were anchors goes on.
            **({} if self.anchors is None else {"anchors": self.anchors.fingerprint}),
        }

    @cached_property
    def untouched(self) -> str:
        """The model's weights and chat template as they are when the work begins."""
        return f"{self.model.fingerprint}:{self.model.identity}"

    def run(self, method: Method, seed: int) -> MethodOutcome:
        """Fit and try a method; one that cannot be used is an outcome too.

        Raises:
            UserError: If the method has left the model changed: what came after would be wrong.
            KeyboardInterrupt: If interrupted.
        """
        before, hooked = self.untouched, self.model.is_hooked
        try:
            outcome = self._fit_and_ask(method, seed)
        except Exception as error:
            outcome = failure(method.name, seed, error, seeded=has_seed(method))
        now = f"{self.model.fingerprint}:{self.model.identity}"
        if now != before or self.model.is_hooked != hooked:
            raise UserError(
                f"method '{method.name}' left the model changed; its applied_to must undo all on "
                "exit: fix it, or leave it out, and load the model again"
            )
        return outcome

    def _fit_and_ask(self, method: Method, seed: int) -> MethodOutcome:
        with cost_of(self.model) as cost:
            # Replies that methods train on are sifted by the same judge.
            own = with_default(with_seed(method, seed), "judge", self.judge)
            own = with_default(own, "anchors", self.anchors)
            fitted = own.fit(self.model, self.train, self.validation)
        with fitted.applied_to(self.model) as changed:
            started = time.perf_counter()
            with stage(f"{method.name}: replies"):
                evaluation = evaluate(
                    changed, self.tested, judge=self.judge, new_tokens=self.new_tokens
                )
            evaluated = time.perf_counter() - started
            kl, perplexity = self._kl(changed), self._perplexity(changed)
            harm_known = self._harm_known(changed)
            timed = self._benign[:_TIMED_PROMPTS]
            per_token = seconds_per_token(changed, timed, self.new_tokens)
        # Right after, so that another load of the machine changes both.
        plain = seconds_per_token(self.model, timed, self.new_tokens)
        return MethodOutcome(
            method=method.name,
            seed=seed,
            seeded=has_seed(method),
            status="completed",
            verdicts=evaluation.verdicts,
            replies=tuple(evaluation.frame()["reply"]),
            settings={name: _plain(value) for name, value in fitted.settings.items()},
            chosen=tuple(fitted.chosen),
            trained_parameters=int(fitted.trained_parameters),
            seconds={"fit": cost.seconds, "evaluate": evaluated},
            fit_bytes=cost.peak_bytes,
            kl=kl,
            token_cost=per_token / plain,
            perplexity=perplexity,
            harm_known=harm_known,
        )

    @cached_property
    def _benign(self) -> tuple[str, ...]:
        return tuple(p.prompt for p in self.tested if (p.label, p.split) == ("benign", "test"))

    @cached_property
    def _base_logits(self) -> Float[Tensor, "prompt vocabulary"]:
        return first_token_logits(self.model, self._benign)

    @cached_property
    def _base_perplexity(self) -> float:
        return _NAN if self.text is None else perplexity(self.model, self.text).value

    def prepare(self) -> None:
        """Measure the untouched model while it is untouched."""
        _ = self.untouched, self._base_perplexity, self._harmfulness
        if self._benign:
            _ = self._base_logits

    def _kl(self, changed: ChatModel) -> float:
        if not self._benign:
            return _NAN
        logits = first_token_logits(changed, self._benign)
        pairs = zip(self._base_logits, logits, strict=True)
        return sum(float(kl_divergence(p, q)) for p, q in pairs) / len(self._benign)

    def _harm_known(self, changed: ChatModel) -> tuple[float, float, float]:
        """Against what the untouched model says of training prompts."""
        if self._harmfulness is None:
            return _NAN, _NAN, _NAN
        try:
            found = harmfulness(changed, self._split_prompts, known=self._harmfulness)
        except UserError:  # what a method puts around the prompt may hide where the text ends
            return _NAN, _NAN, _NAN
        one = found.auroc["harmful_vs_pseudo_harmful"]
        return one.value, one.low, one.high

    @cached_property
    def _split_prompts(self) -> PromptSet:
        return replace(self.train, prompts=self.train.prompts + self.tested.prompts)

    @cached_property
    def _harmfulness(self) -> Harmfulness | None:
        """Of the untouched model; None where the template or the prompts do not allow it."""
        try:
            found = harmfulness(self.model, self._split_prompts)
        except UserError:
            return None
        return found if "harmful_vs_pseudo_harmful" in found.auroc else None

    def form_control(self) -> dict[str, float]:
        """``harm_by_form``: how well form alone does what ``harm_known`` says of the model."""
        if self._harmfulness is None:
            return {}
        return {"harm_by_form": self._harmfulness.form["harmful_vs_pseudo_harmful"].value}

    def _perplexity(self, changed: ChatModel) -> float:
        if self.text is None:
            return _NAN
        return perplexity(changed, self.text).value / self._base_perplexity


def judge_for(model: ChatModel, judge: Judge | str | None, validation: PromptSet) -> Judge:
    """The judge that the user has chosen, or the keyword judge.

    A first-token judge without tokens gets those with which the untouched model begins refusals of
    validation prompts. Where its verdicts are not those of judged replies to these, it is said.

    Raises:
        UserError: If it needs tokens and the model refuses no harmful prompt.
    """
    judge = as_judge(judge)
    if not isinstance(judge, FirstTokenJudge) or judge.tokens is not None:
        return judge
    openings = refusal_openings(model, validation)
    with stage("scores against replies"):
        read = evaluate(model, validation, tokens=openings, new_tokens=24)
    for warning in read.score_agreement.warnings:
        warn(warning)
    return with_tokens(judge, openings.simplest)


# ---- Methods and the settings that a comparison gives them ----


def has_seed(method: Method) -> bool:
    """Whether a method has a setting named ``seed``; others give one result and are run once."""
    return _has(method, "seed")


def with_seed(method: Method, seed: int) -> Method:
    """A method with this seed, or itself where it has none."""
    return _with(method, "seed", seed) if has_seed(method) else method


def with_default(method: Method, setting: str, value: Any) -> Method:
    """A method with a value of a setting: itself where it has no such setting, or has it set."""
    if not _has(method, setting) or getattr(method, setting, None) is not None:
        return method
    return _with(method, setting, value)


def _has(method: Method, setting: str) -> bool:
    if is_dataclass(method):
        return any(one.name == setting for one in fields(method))
    return hasattr(method, setting)


def _with(method: Method, setting: str, value: Any) -> Method:
    if is_dataclass(method) and not isinstance(method, type):
        return replace(method, **{setting: value})
    changed: Any = copy.copy(method)
    setattr(changed, setting, value)
    return cast(Method, changed)


def settings_of(method: Method) -> dict[str, Any]:
    """Class and plain settings of a method; the seed is left out.

    The class of a method of this package goes without its module, which may move.
    """
    kind = type(method).__qualname__
    if not type(method).__module__.startswith(_METHODS_MODULE):
        kind = f"{type(method).__module__}.{kind}"
    names: Iterable[str] = vars(method) if hasattr(method, "__dict__") else ()
    if is_dataclass(method):
        names = [field.name for field in fields(method)]
    settings = {
        name: _plain(getattr(method, name)) for name in names if name not in ("name", "seed")
    }
    return {"class": kind, **settings}


def same_settings(kept: Mapping[str, Any], method: Method) -> bool:
    """Whether an outcome was kept of a method with the settings of this one.

    A setting that came later than the outcome stands at its default there.
    """
    defaults: dict[str, Any] = {}
    if is_dataclass(method):
        defaults = {one.name: plain(_plain(one.default)) for one in fields(method)}
    now: dict[str, Any] = plain(settings_of(method))
    return {**{name: defaults.get(name) for name in now}, **kept} == now


def failure(method: str, seed: int, error: Exception, *, seeded: bool = False) -> MethodOutcome:
    """The outcome of a method that could not be used, with the reason in one line."""
    reason = " ".join(str(error).split())
    if is_out_of_memory(error):
        reason = f"out of memory ({reason[:200]})" if reason else "out of memory"
    elif not isinstance(error, UserError):
        reason = f"{type(error).__name__}: {reason[:400]}" if reason else type(error).__name__
    return MethodOutcome(method, seed, seeded, "failed", reason)


def _plain(value: Any) -> Any:
    """A value as JSON gives it back; of anything else only its kind, which has no address in it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, PromptSet):
        return f"{value.name} ({value.fingerprint[:12]})"
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:200]


def provenance(
    model: ChatModel, judge: Judge, new_tokens: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """What a report says of how rates were measured."""
    return {
        "model": model.name,
        "judge": judge.identity,
        "new_tokens": new_tokens,
        "decoding": "greedy",
        "seeds": list(seeds),
        "device": str(model.device),
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "versions": versions(),
    }
