"""The boundary: the one place where what frozen layers compute enters the layers that train.

The frozen prefix of a chain gives one tensor to the rest: the activation that enters the first training group.
`find_boundary` finds the module that takes it, the entry module, and tries on a few examples whether nothing else is needed;
`BoundaryHooks` then let a call of the model stop there (`capture`), or start there from a stored activation
(``model(activation=...)``).

Nothing of the model is rebuilt: names, weights and other libraries' wrappers stay. Started from an activation, the modules of the
prefix are stubs: they return what they returned once, and the entry module throws it away.

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
from hftl.names import WINDOWED

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
    entry_module: str
    """The module whose first input is the activation."""
    per_token: bool
    """The activation is (B, T, *shape), of which the real tokens count; otherwise (B, *shape)."""
    shape: tuple[int, ...]
    """Shape of the activation of one token, or of one example."""
    stub_outputs: Mapping[str, Any]
    """For each module that is skipped what it returned once."""
    pictures: bool
    placeholder_inputs: Inputs
    """Inputs of one example, for calls that need none but the activation; empty where the tokens count."""

    def nbytes(self, *, examples: float, tokens: float, bf16: bool) -> float:
        """Bytes of the activations of so many examples with so many tokens together, in bf16 or in float32.

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
    if getattr(getattr(model, "config", None), "model_type", None) == WINDOWED:
        raise NotSeparable("a text is read in as many windows as it takes (data.windows)")
    called = first_calls(model, lambda: model(**inputs))
    candidates = _outermost(name for name in chain.modules[group] if name in called)
    candidates = sorted(candidates, key=called.__getitem__)[:1]
    if group == HEAD:
        # What comes before the first layer with weights, or with dropout, such as pooling, can be behind us too.
        layers = [name for name in chain.modules[HEAD] if name in called and _learns_or_drops(model.get_submodule(name))]
        candidates = [*sorted(layers, key=called.__getitem__)[:1], *candidates]
    frozen = _outermost(name for earlier in chain.names[:first] for name in chain.modules[earlier] if name in called)
    outputs = _outputs(model, frozen, {name: tensor[:1] for name, tensor in inputs.items()})
    if "pixel_values" not in inputs:
        # Tables of words and positions are cheap, and may serve every layer; what they give to the first one is not used.
        outputs = {name: each for name, each in outputs.items() if name not in chain.modules[chain.names[0]] and each.is_layer}
    reasons = []
    for entry_module in dict.fromkeys(candidates):
        try:
            return _try_boundary(model, group, entry_module, {name: each.value for name, each in outputs.items()}, inputs)
        except NotSeparable as error:
            reasons.append(f"{entry_module}: {error}")
    raise NotSeparable("; ".join(reasons) or f"no module of {group} is called")


def activation_shape(model: nn.Module, boundary: Boundary, inputs: Inputs) -> tuple[int, ...]:
    """`Boundary.shape` where the model, on the CPU, gets other inputs, such as pictures of another size."""
    probe = Boundary(boundary.group, boundary.entry_module, False, (), {}, boundary.pictures, {})
    with _evaluating(model), torch.no_grad(), _boundary_hooks(model, probe) as hooks:
        return tuple(hooks.capture(inputs).shape[1:])


class BoundaryHooks:
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
            model.get_submodule(boundary.entry_module).register_forward_pre_hook(self._enter, with_kwargs=True),
        ]
        self._skipped = [model.get_submodule(name) for name in boundary.stub_outputs]
        self._before = [module.__dict__.get("forward") for module in self._skipped]  # of hooks at a later boundary
        device = next(model.parameters()).device
        for module, output in zip(self._skipped, boundary.stub_outputs.values(), strict=True):
            # Over the class's method: the module keeps its place, its name and its weights.
            module.forward = self._stub(module.forward, _mapped(output, lambda tensor: tensor.to(device)))

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
        """The activation that the prefix computes: (B, T, *shape) or (B, *shape). Nothing after the entry module is run.

        The inputs may have an activation for hooks at an earlier boundary of the same model. A stored activation is later converted
        to the number format that was seen here.

        Raises:
            NotSeparable: the entry module was not called.
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
        if self._waiting is not None and self.boundary.placeholder_inputs:
            size, device = len(self._waiting), self._waiting.device
            kwargs = {name: one.to(device).expand(size, *one.shape[1:]) for name, one in self.boundary.placeholder_inputs.items()}
        return args, kwargs

    def _check_entered(self, *_: object) -> None:
        if self._waiting is not None:
            raise RuntimeError(f"{self.boundary.entry_module} was not called, so that the stored activation was not used")

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

    def _stub(self, forward: Callable[..., Any], output: Any) -> Callable[..., Any]:
        """A `forward` that computes nothing where the model starts from an activation."""

        def stub_or_compute(*args: Any, **kwargs: Any) -> Any:
            if self._waiting is None:
                return forward(*args, **kwargs)
            size = len(self._waiting)
            if self.boundary.pictures:  # of the right shape, on which modules before the entry module may rely
                return _mapped(output, lambda tensor: tensor[:1].expand(size, *tensor.shape[1:]))
            return _with_first(output, _first_tensor((args, kwargs)))

        return stub_or_compute


class _Reached(Exception):
    """The forward pass has reached the entry module."""

    def __init__(self, activation: torch.Tensor) -> None:
        self.activation = activation


def _try_boundary(model: nn.Module, group: str, entry_module: str, stub_outputs: Mapping[str, Any], inputs: Inputs) -> Boundary:
    """The boundary at an entry module, once a stored activation was tried there.

    Raises:
        NotSeparable: the logits differ, or the activation is random in training.
    """
    pictures = "pixel_values" in inputs
    probe = Boundary(group, entry_module, False, (), {}, pictures, {})
    with _boundary_hooks(model, probe) as hooks, torch.no_grad(), torch.random.fork_rng(devices=[]):
        drawn = []
        for seed in range(2):
            torch.manual_seed(seed)
            drawn.append(hooks.capture(inputs))
        if not torch.equal(*drawn):
            raise NotSeparable("what enters it is random in training")
    with _evaluating(model), torch.no_grad():
        whole = model(**inputs).logits
        with _boundary_hooks(model, probe) as hooks:
            activation = hooks.capture(inputs)
            shorter = activation if pictures else hooks.capture({name: tensor[:, :-1] for name, tensor in inputs.items()})
        per_token = activation.shape != shorter.shape
        if per_token:
            mask = inputs["attention_mask"]
            if activation.shape[1] != mask.shape[1] or shorter.shape[1] != mask.shape[1] - 1:
                raise NotSeparable(f"{tuple(activation.shape)} enters it, which is not one row a token")
            activation = activation * mask.view(*mask.shape, *[1] * (activation.ndim - 2))  # padding is not kept
        placeholder_inputs: Inputs = {}
        if pictures:
            placeholder_inputs = {name: torch.zeros(1).expand(1, *tensor.shape[1:]) for name, tensor in inputs.items()}
        elif not per_token:
            placeholder_inputs = {name: tensor[:1, :1] for name, tensor in inputs.items()}
        shape = tuple(activation.shape[1 + per_token :])
        boundary = Boundary(group, entry_module, per_token, shape, stub_outputs, pictures, placeholder_inputs)
        with _boundary_hooks(model, boundary):
            try:
                again = model(**(inputs if per_token else {}), **{ACTIVATION: activation}).logits
            except MALFORMED as error:
                raise NotSeparable(f"cannot be entered: {' '.join(str(error).split())}") from None
    # In float32 the two differ by what other shapes do to the order of sums.
    if whole.shape != again.shape or not torch.allclose(whole, again, rtol=1e-4, atol=1e-4 * float(whole.abs().max())):
        raise NotSeparable("from what enters it alone come other logits")
    return boundary


@contextmanager
def _boundary_hooks(model: nn.Module, boundary: Boundary) -> Any:
    hooks = BoundaryHooks(model, boundary)
    try:
        yield hooks
    finally:
        hooks.close()


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
class _Output:
    value: Any
    is_layer: bool
    """The module takes a floating point tensor and returns one, as a layer does."""


def _outputs(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, _Output]:
    """What the modules return for one example."""
    outputs: dict[str, _Output] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensors = (_first_tensor((args, kwargs)), _first_tensor(output))
            is_layer = all(tensor is not None and tensor.is_floating_point() for tensor in tensors)
            outputs.setdefault(name, _Output(_mapped(output, lambda tensor: tensor.detach().clone()), is_layer))

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(note(name), with_kwargs=True) for name in names]
    try:
        with _evaluating(model), torch.no_grad():
            model(**inputs)
    finally:
        for each in hooks:
            each.remove()
    return outputs


def _outermost(names: Iterable[str]) -> list[str]:
    """The dotted names that are within no other one."""
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
    return next((tensor for part in parts if (tensor := _first_tensor(part)) is not None), None)


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
