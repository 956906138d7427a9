"""The boundary: the one place where what frozen layers compute enters the layers that train.

All that the frozen prefix of a chain has to say to the rest is one tensor, the activation that enters the first training group.
`find_boundary` finds the module that takes it, and tries out on a few examples that it is really all; a `Doorway` in a model
then lets a call stop there (`capture`), or start there from a stored activation (``model(activation=...)``).

Nothing of the model is rebuilt: names, weights and other libraries' wrappers stay. Started from an activation, the modules of the
prefix answer without computing, and what they answer is thrown away at the door.

Shapes: B examples, T tokens of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from hftl.models.chain import HEAD, Chain, below, first_calls
from hftl.models.checkpoint import MALFORMED

ACTIVATION = "activation"
"""Name of the input that carries a stored activation."""

Inputs = Mapping[str, torch.Tensor]


class NotSeparable(Exception):
    """The suffix of a model needs more of its prefix than one tensor; the message says what was seen."""


@dataclass(frozen=True)
class Boundary:
    """Where a stored activation enters the models of one architecture."""

    group: str
    """The first training group."""
    door: str
    """The module whose first input is the activation."""
    per_token: bool
    """The activation is (B, T, *shape), of which the real tokens count; otherwise (B, *shape)."""
    shape: tuple[int, ...]
    """Of one token, or of one example."""
    answers: Mapping[str, Any]
    """For each module that is skipped what it answered once."""
    pictures: bool
    stand_in: Inputs
    """Inputs of one example, for calls that need none but the activation; empty where the tokens count."""

    def nbytes(self, *, examples: float, tokens: float, bf16: bool) -> float:
        """Of the activations of so many examples with so many tokens together, in bf16 or in float32.

        25,000 texts of 230 tokens, 768 features each: in bf16 8.8 GB; where one vector a text enters, 38 MB.
        """
        return (tokens if self.per_token else examples) * math.prod(self.shape) * (2 if bf16 else 4)


def find_boundary(model: nn.Module, chain: Chain, trains: Sequence[str], inputs: Inputs) -> Boundary:
    """Where the frozen groups before the first of `trains` end; there is at least one.

    Of a head's input only what its first layer reads is kept: of BERT the vector of [CLS], of a ResNet the pooled features.
    `model` is on the CPU and in the stage's training mode, and left as it is; `inputs` are two or more examples, texts padded.

    Raises:
        NotSeparable: from the activation alone the model does not give the logits it gives from its inputs, or the activation is
            random in training.
    """
    first = next(place for place, name in enumerate(chain.names) if name in trains)
    group = chain.names[first]
    if getattr(getattr(model, "config", None), "layerdrop", 0.0):
        raise NotSeparable("whole layers are left out at random in training (layerdrop)")
    called = first_calls(model, lambda: model(**inputs))
    doors = _outermost(name for name in chain.modules[group] if name in called)
    doors = sorted(doors, key=called.__getitem__)[:1]
    if group == HEAD:
        # What comes before the first layer with weights, or with dropout, such as pooling, can be behind us too.
        layers = [name for name in chain.modules[HEAD] if name in called and _learns_or_drops(model.get_submodule(name))]
        doors = [*sorted(layers, key=called.__getitem__)[:1], *doors]
    frozen = _outermost(name for earlier in chain.names[:first] for name in chain.modules[earlier] if name in called)
    answers = _answers(model, frozen, {name: tensor[:1] for name, tensor in inputs.items()})
    if "pixel_values" not in inputs:
        # Tables of words and positions are cheap, and may serve every layer; what they give to the first one is not used.
        answers = {name: answer for name, answer in answers.items() if name not in chain.modules[chain.names[0]] and answer.passes}
    reasons = []
    for door in dict.fromkeys(doors):
        try:
            return _tried(model, group, door, {name: answer.value for name, answer in answers.items()}, inputs)
        except NotSeparable as error:
            reasons.append(f"{door}: {error}")
    raise NotSeparable("; ".join(reasons) or f"no module of {group} is called")


class Doorway:
    """Lets a model stop at its boundary, or start there; a call without an activation does what it always did."""

    def __init__(self, model: nn.Module, boundary: Boundary) -> None:
        self.boundary = boundary
        self._model = model
        self._dtype: torch.dtype | None = None
        self._stops = False
        self._waiting: torch.Tensor | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._check_entered),
            model.register_forward_hook(self._end, always_call=True),
            model.get_submodule(boundary.door).register_forward_pre_hook(self._enter, with_kwargs=True),
        ]
        self._skipped = [model.get_submodule(name) for name in boundary.answers]
        self._before = [module.__dict__.get("forward") for module in self._skipped]  # of another doorway, further on
        device = next(model.parameters()).device
        for module, answer in zip(self._skipped, boundary.answers.values(), strict=True):
            # Over the class's method: the module keeps its place, its name and its weights.
            module.forward = self._answering(module.forward, _mapped(answer, lambda tensor: tensor.to(device)))

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        for module, before in zip(self._skipped, self._before, strict=True):
            if before is None:
                del module.forward
            else:
                module.forward = before

    def capture(self, inputs: Inputs) -> torch.Tensor:
        """The activation that the prefix computes: (B, T, *shape) or (B, *shape). Nothing behind the door is run.

        The inputs may have an activation for an earlier doorway of the same model. A stored activation is later brought to the
        number format that was seen here.

        Raises:
            NotSeparable: the door was not reached.
        """
        self._stops = True
        try:
            self._model(**inputs)
        except _Reached as reached:
            self._dtype = reached.activation.dtype
            return reached.activation
        finally:
            self._stops = False
        raise NotSeparable("it is not called every time")

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._stops:
            return args, kwargs
        self._waiting = kwargs.get(ACTIVATION)
        kwargs = {name: value for name, value in kwargs.items() if name != ACTIVATION}
        if self._waiting is not None and self.boundary.stand_in:
            size, device = len(self._waiting), self._waiting.device
            kwargs = {name: one.to(device).expand(size, *one.shape[1:]) for name, one in self.boundary.stand_in.items()}
        return args, kwargs

    def _check_entered(self, *_: object) -> None:
        if self._waiting is not None:
            raise RuntimeError(f"{self.boundary.door} was not called, so that the stored activation was not used")

    def _end(self, *_: object) -> None:
        self._waiting = None

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if self._stops:
            raise _Reached(_first_tensor((args, kwargs)))
        if self._waiting is None:  # not started from one; or called again, by a model whose layers share weights
            return None
        activation, self._waiting = self._waiting, None
        activation = activation if self._dtype is None else activation.to(self._dtype)
        entered: tuple[tuple[Any, ...], dict[str, Any]] = _with_first((args, kwargs), activation)
        return entered

    def _answering(self, forward: Callable[..., Any], answer: Any) -> Callable[..., Any]:
        def answer_or_compute(*args: Any, **kwargs: Any) -> Any:
            if self._waiting is None:
                return forward(*args, **kwargs)
            size = len(self._waiting)
            if self.boundary.pictures:  # of the right shape, which modules before the door may count on
                return _mapped(answer, lambda tensor: tensor[:1].expand(size, *tensor.shape[1:]))
            return _with_first(answer, _first_tensor((args, kwargs)))

        return answer_or_compute


class _Reached(Exception):
    """The forward pass has come to the door."""

    def __init__(self, activation: torch.Tensor) -> None:
        self.activation = activation


def _tried(model: nn.Module, group: str, door: str, answers: Mapping[str, Any], inputs: Inputs) -> Boundary:
    """The boundary at a door, after a trial of what it is for."""
    pictures = "pixel_values" in inputs
    probe = Boundary(group, door, False, (), {}, pictures, {})
    with _doorway(model, probe) as doorway, torch.no_grad(), torch.random.fork_rng(devices=[]):
        drawn = []
        for seed in range(2):
            torch.manual_seed(seed)
            drawn.append(doorway.capture(inputs))
        if not torch.equal(*drawn):
            raise NotSeparable("what enters it is random in training")
    with _evaluating(model), torch.no_grad():
        whole = model(**inputs).logits
        with _doorway(model, probe) as doorway:
            activation = doorway.capture(inputs)
            shorter = activation if pictures else doorway.capture({name: tensor[:, :-1] for name, tensor in inputs.items()})
        per_token = activation.shape != shorter.shape
        if per_token:
            mask = inputs["attention_mask"]
            if activation.shape[1] != mask.shape[1] or shorter.shape[1] != mask.shape[1] - 1:
                raise NotSeparable(f"{tuple(activation.shape)} enters it, which is not one row a token")
            activation = activation * mask.view(*mask.shape, *[1] * (activation.ndim - 2))  # padding is not kept
        stand_in: Inputs = {}
        if pictures:
            stand_in = {name: torch.zeros(1).expand(1, *tensor.shape[1:]) for name, tensor in inputs.items()}
        elif not per_token:
            stand_in = {name: tensor[:1, :1] for name, tensor in inputs.items()}
        found = Boundary(group, door, per_token, tuple(activation.shape[1 + per_token :]), answers, pictures, stand_in)
        with _doorway(model, found):
            try:
                again = model(**(inputs if per_token else {}), **{ACTIVATION: activation}).logits
            except MALFORMED as error:
                raise NotSeparable(f"cannot be entered: {' '.join(str(error).split())}") from None
    # In float32 the two differ by what other shapes do to the order of sums.
    if whole.shape != again.shape or not torch.allclose(whole, again, rtol=1e-4, atol=1e-4 * float(whole.abs().max())):
        raise NotSeparable("from what enters it alone come other logits")
    return found


@contextmanager
def _doorway(model: nn.Module, boundary: Boundary) -> Any:
    doorway = Doorway(model, boundary)
    try:
        yield doorway
    finally:
        doorway.close()


@contextmanager
def _evaluating(model: nn.Module) -> Any:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@dataclass(frozen=True)
class _Answer:
    value: Any
    passes: bool
    """It takes a floating point tensor and gives one, as a layer does."""


def _answers(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, _Answer]:
    """What the modules answer for one example."""
    answers: dict[str, _Answer] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            taken, given = _first_tensor((args, kwargs)), _first_tensor(output)
            passes = taken is not None and given is not None and taken.is_floating_point() and given.is_floating_point()
            answers.setdefault(name, _Answer(_mapped(output, lambda tensor: tensor.detach().clone()), passes))

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(note(name), with_kwargs=True) for name in names]
    try:
        with _evaluating(model), torch.no_grad():
            model(**inputs)
    finally:
        for each in hooks:
            each.remove()
    return answers


def _outermost(names: Iterable[str]) -> list[str]:
    """Of dotted names those that are within no other."""
    every = list(names)
    return [name for name in every if not any(below(name, other) and name != other for other in every)]


def _learns_or_drops(module: nn.Module) -> bool:
    """Whether what a module gives changes with training, or from one call to the next: it has weights or statistics of its own."""
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(own) or isinstance(module, _DropoutNd)


# --- tensors within what modules take and give --------------------------------------------------------------------------------


def _first_tensor(value: Any) -> Any:
    """The first tensor in nested tuples, lists and mappings; None where there is none."""
    if isinstance(value, torch.Tensor):
        return value
    parts: Iterable[Any] = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _with_first(value: Any, tensor: torch.Tensor) -> Any:
    """The same with another first tensor."""
    first = _first_tensor(value)
    return _mapped(value, lambda other: tensor if other is first else other)


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return type(value)({name: _mapped(part, change) for name, part in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple | list):
        parts = [_mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
