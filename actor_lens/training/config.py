"""Every setting of a fine-tune, checked where it is made; without torch, since menus read it too.

The command line makes its flags and the dashboard its controls from these fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_args

from actor_lens.directions.options import ORIGINS, SHIFTS, Origin, Shift
from actor_lens.errors import UserError, check_choice, check_number, check_positive, check_whole

Anchor = Literal["initial", "current"]
Refresh = Literal["epoch", "step", "never"] | int
ANCHORS: tuple[Anchor, ...] = get_args(Anchor)
REFRESHES: tuple[str, ...] = ("epoch", "step", "never")
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("full", "bfloat16")
AUTO_ALPHAS = (1.0, 2.0, 3.0)
"""Alphas that are tried where settings are found: the toy wants the least, real models more."""
AUTO_LRS = (3e-4, 1e-3)
"""Learning rates that are tried with each."""
AUTO_LAYERS = 4
"""Most layers that both are tried at."""
# The product of two such settings still fits into float32.
_LARGEST = 1e15


def _setting(default: Any, check: Callable[[str, Any], Any], **shown: Any) -> Any:
    """A field with its check, and how interfaces show it.

    ``help``; ``choices``; ``or_whole``, where a whole number is allowed beside them.
    """
    return field(default=default, metadata={"check": check, **shown})


def _positive(name: str, value: Any) -> float:
    number = check_positive(name, value)
    if number > _LARGEST:
        raise UserError(f"{name} is {value}; give at most {_LARGEST:g}")
    return number


def _refresh(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return check_choice(name, value, REFRESHES)
    return check_whole(name, value, low=1)


def _floor(name: str, value: Any) -> float | None:
    return None if value is None else check_number(name, value, 0.0, 1.0)


@dataclass(frozen=True)
class FinetuneConfig:
    """Every setting of a fine-tune; together with model and prompts it fixes the result.

    Numbers of NumPy become Python's own.

    Attributes:
        layer: The block that is trained, from 0.
        alpha: How much of the way to the origin a target goes.
        origin: ``"benign_mean"``, ``"midpoint"``, ``"zero"`` (the paper's formula) or ``"fitted"``,
            where ``just_enough_shift`` says of the training prompts that no shift is needed.
        anchor: ``"initial"`` takes activations and R in the targets from the untrained weights, a
            fixed point; ``"current"``, as in the paper, from the weights of the moment, a target
            that recedes.
        shift: ``"projected"`` (just enough) or ``"uniform"`` (the paper's ablation).
        refresh: How often R and the origin in moving targets are recomputed: ``"epoch"``,
            ``"step"``, ``"never"``, or a number K for every K steps, as in the paper. With
            ``anchor="initial"`` it changes nothing.
        epochs: Passes over the prompts.
        lr: Learning rate.
        batch_size: Prompts in a training step.
        weight_decay: Weight decay.
        safety_floor: Most by which the share of refused harmful validation prompts may fall, of
            all and of those from sources that training lacks, or None for no such limit.
        seed: Seed of the order of the prompts.
        optimizer: ``"adamw"``, or ``"sgd"`` without momentum, a control.
        eps: AdamW's epsilon, which it adds to the root of its second moment: gradients well above
            it make steps of the size of ``lr`` however large they are.
        precision: ``"full"`` trains a float32 copy of the block (float64 for a float64 model);
            ``"bfloat16"`` weights, activations, targets and the optimiser's moments in bfloat16.

    Raises:
        UserError: If a setting is not allowed; the message names it and what is allowed.
    """

    layer: int = field(metadata={"check": partial(check_whole, low=0)})
    alpha: float = _setting(1.0, _positive, help="how much of the way to the origin a target goes")
    origin: Origin = _setting(
        "benign_mean",
        partial(check_choice, choices=ORIGINS),
        choices=ORIGINS,
        help="where a projection counts as none; zero is the paper's formula, fitted is measured "
        "on the training prompts before training",
    )
    anchor: Anchor = _setting(
        "initial",
        partial(check_choice, choices=ANCHORS),
        choices=ANCHORS,
        help="weights that targets are computed from: untrained, or those of the moment, as in the "
        "paper",
    )
    shift: Shift = _setting(
        "projected",
        partial(check_choice, choices=SHIFTS),
        choices=SHIFTS,
        help="how far targets lie: each prompt by its own projection, or all equally far",
    )
    refresh: Refresh = _setting(
        "epoch",
        _refresh,
        choices=REFRESHES,
        or_whole=True,
        help="how often the direction is computed again, with anchor current: also every N steps",
    )
    epochs: int = _setting(8, partial(check_whole, low=1), help="passes over the training prompts")
    lr: float = _setting(1e-3, _positive, help="learning rate")
    batch_size: int = _setting(16, partial(check_whole, low=1), help="prompts in a training step")
    weight_decay: float = _setting(
        0.0,
        partial(check_number, low=0.0, high=_LARGEST),
        help="weight decay",
    )
    safety_floor: float | None = _setting(
        None,
        _floor,
        help="keep the best weights at which refusals of harmful validation prompts fell by at "
        "most this share",
    )
    seed: int = _setting(
        0,
        partial(check_whole, low=0, high=2**32 - 1),
        help="seed of the order of the prompts",
    )
    optimizer: str = _setting("adamw", partial(check_choice, choices=OPTIMIZERS))
    eps: float = _setting(1e-8, _positive)
    precision: str = _setting("full", partial(check_choice, choices=PRECISIONS))

    def __post_init__(self) -> None:
        """Check every setting and turn NumPy's numbers into Python's own."""
        for setting in fields(self):
            value = setting.metadata["check"](setting.name, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)

    def recorded(self) -> dict[str, Any]:
        """Settings by name, as ledgers keep them: later ones only where they differ from default.

        So work that an earlier version began goes on.
        """
        return {
            name: value
            for name, value in vars(self).items()
            if name not in _LATER or value != getattr(FinetuneConfig, name)
        }


# Settings that came after ledgers that are still opened.
_LATER = ("optimizer", "eps", "precision")


def config_with(config: FinetuneConfig | None, **settings: Any) -> FinetuneConfig:
    """A config with some settings changed, or a new one.

    Args:
        config: The settings to start from; None for the defaults.
        settings: Fields of ``FinetuneConfig``; without a config, ``layer`` is among them.

    Raises:
        UserError: If there is no such setting, the layer is missing, or a value is not allowed.
    """
    names = [setting.name for setting in fields(FinetuneConfig)]
    unknown = [name for name in settings if name not in names]
    if unknown:
        raise UserError(f"setting '{unknown[0]}' is not known; use one of {', '.join(names)}")
    values = {**({} if config is None else vars(config)), **settings}
    if "layer" not in values:
        raise UserError("no layer was named; give layer=N or a FinetuneConfig")
    return FinetuneConfig(**values)
