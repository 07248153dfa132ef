"""PEFT and diffusers, whose own code puts an adapter's tensors into a model; PEFT is imported when it is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from typing import Any
from warnings import catch_warnings, filterwarnings

from torch import Tensor, nn

from adaptzip.errors import CheckFailedError, RefusedError, UsageError

_PREFIX = "base_model.model."
_MISMATCH = re.compile(r"size mismatch for (\S+): .*?Size\(\[([\d, ]*)\]\).*?Size\(\[([\d, ]*)\]\)")
"""What torch says of a tensor of another shape: its name, its shape in the file, its shape in the model."""
_MAGNITUDE = ".lora_magnitude_vector"


def _peft() -> Any:
    """The package.

    Raises:
        RefusedError: if it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise RefusedError(
            "putting an adapter into a live model needs the package peft", hint="pip install 'adaptzip[peft]'"
        ) from error
    return peft


def adapters_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the adapters that a model has."""
    return tuple(getattr(model, "peft_config", None) or ())


def base_of(model: nn.Module) -> nn.Module:
    """The model below PEFT's own."""
    inside = getattr(model, "get_base_model", None)
    found: nn.Module = inside() if callable(inside) else model
    return found


def add(model: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> None:
    """Put new layers into a model, fill them, and make them the active ones.

    Raises:
        RefusedError: if PEFT is missing, or does not take the adapter.
        CheckFailedError: if not every tensor found its place.
    """
    peft = _peft()
    with _refusing(), catch_warnings():
        # That there are adapters already is why it has a name.
        filterwarnings("ignore", "Already found a `peft_config` attribute")
        made = _config(peft, config)
        if isinstance(model, peft.PeftModel):
            model.add_adapter(name, made)
        elif hasattr(model, "_hf_peft_config_loaded"):
            model.add_adapter(made, adapter_name=name)  # type: ignore[operator]
        else:
            peft.inject_adapter_in_model(made, model, adapter_name=name)
        if not isinstance(model, peft.PeftModel):
            # As PeftModel does: training and rounding of an adapter are in float32 whatever the model is in.
            peft.tuners.tuners_utils.cast_adapter_dtype(model, name)
        found = peft.set_peft_model_state_dict(model, _keyed(model, tensors), adapter_name=name)
        if isinstance(model, peft.PeftModel):
            model.set_adapter(name)
    lost = [*found.unexpected_keys, *(key for key in found.missing_keys if f".{name}." in key)]
    if lost:
        raise CheckFailedError(
            f"PEFT found no place for {lost[0]}" if found.unexpected_keys else f"{lost[0]} was left as it was made",
            hint="is this the base model that the adapter was trained on?",
        )


def swap(model: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> None:
    """Put an adapter in the place of another.

    PEFT tells the scales of all modules by `lora_alpha` and `r` alone, so that the adapter has to have one scale.

    Raises:
        RefusedError: if PEFT is missing, or does not take the adapter.
        UsageError: if PEFT would take another adapter's layers for those of this name.
    """
    peft = _peft()
    made = _config(peft, config)
    old = model.peft_config[name]  # type: ignore[index]
    for field in ("peft_type", "use_dora"):
        if getattr(old, field) != getattr(made, field):
            raise RefusedError(
                f"{name!r} has {field} {getattr(old, field)}, and the adapter {getattr(made, field)}",
                hint="load it under a name of its own",
            )
    _check_apart(model, name)
    state = {_named(key, name): tensor for key, tensor in _keyed(model, tensors).items()}
    swapping = import_module("peft.utils.hotswap")
    _reshape(model, state, name)
    with _refusing():
        swapping.hotswap_adapter_from_state_dict(model, state, name, made)
    model.peft_config[name] = made  # type: ignore[index, operator]


def _reshape(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Give factors the shapes of those that are to come.

    PEFT pads what is smaller, so that the last bits of outputs would depend on what was there before, and takes what is
    larger for the model's own, so that the next swap would write over a caller's tensors. A model that was prepared for
    compiling, whose scales are tensors, keeps its shapes.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    if not state.keys() <= known.keys():
        return  # PEFT says which is missing.
    for key, new in state.items():
        layer: Any = model.get_submodule(key.rsplit(".", 3)[0])
        if known[key].shape != new.shape and not isinstance(layer.scaling[name], Tensor):
            known[key].data = known[key].data.new_empty(new.shape)


def load_into_pipeline(pipeline: Any, tensors: Mapping[str, Tensor], name: str, *, hotswap: bool) -> None:
    """Have a diffusers pipeline load tensors.

    Raises:
        RefusedError: if it does not take them.
    """
    with _refusing():
        pipeline.load_lora_weights(dict(tensors), adapter_name=name, **({"hotswap": True} if hotswap else {}))


def _config(peft: Any, config: Mapping[str, Any]) -> Any:
    """PEFT's own object, without fields that this version of PEFT does not know, as PEFT reads files."""
    known = {field.name for field in fields(peft.LoraConfig)}
    told = {name: value for name, value in config.items() if name in known}
    return peft.LoraConfig(**told | {"inference_mode": True})


def _check_apart(model: nn.Module, name: str) -> None:
    """PEFT sets to zero what has `lora_` and the adapter's name anywhere in its key, and is not swapped."""
    for key in model.state_dict():
        others = "lora_" in key and name in key and f".{name}." not in f"{key}."
        if others:
            raise UsageError(
                f"PEFT would take {key} for a part of the adapter {name!r}, whose name is in it",
                hint="call adapters so that no name is a part of another, or of a module's",
            )


def _keyed(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the keys of a model, which begin otherwise where it is no `PeftModel`."""
    if isinstance(model, _peft().PeftModel):
        return dict(tensors)
    return {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}


def _named(key: str, name: str) -> str:
    """The key of a tensor in a model, with the adapter's name in it."""
    if key.endswith(_MAGNITUDE):
        return f"{key}.{name}.weight"
    module, _, leaf = key.rpartition(".")
    return f"{module}.{name}.{leaf}"


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what another program raises into a refusal that says what it said."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, NotImplementedError) as error:
        told = " ".join(str(error).split())
        sizes = _MISMATCH.search(told)
        if sizes is not None:
            raise RefusedError(
                f"the model does not take the adapter: {sizes[1]} is [{sizes[3]}] in the model and [{sizes[2]}] in the "
                "adapter",
                hint="load the model with as many labels or words as the adapter has, such as num_labels=8",
            ) from error
        raise RefusedError(
            f"the model does not take the adapter: {told[:300]}", hint="is this the model that it was trained on?"
        ) from error
