"""transformers, the guest: imported when needed, and kept off the network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.config_file import load_config as read_config
from adaptzip.models.files import AGAIN
from adaptzip.models.kinds import Kind


@dataclass(frozen=True)
class DryLoad:
    """What transformers would do with the tensors of a model's folder.

    Attributes:
        model_class: the class that the folder's config.json names.
        mismatched: tensors of another shape than the class has by config.json: (in the files, in the class) by name.
        missing: tensors that the files lack, which transformers would fill with random numbers.
        unexpected: tensors that the class has no place for.
    """

    model_class: str
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: frozenset[str]
    unexpected: frozenset[str]


def import_transformers() -> Any:
    """The package.

    Raises:
        RefusedError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise RefusedError(
            "this runs the base model, which needs the package transformers",
            hint="pip install 'adaptzip[distill]'",
        ) from error
    return transformers


def load_locally(name: str, folder: Path, **options: Any) -> Any:
    """transformers' `name.from_pretrained` of a folder: no network, no code from the folder, nothing printed.

    Raises:
        RefusedError: if transformers is missing, or lacks a package.
        BaseModelError: if it can't load the folder.
    """
    transformers = import_transformers()
    try:
        with _quiet(transformers):
            return getattr(transformers, name).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
    except ImportError as error:
        raise RefusedError(
            f"{folder}: transformers lacks a package to load it as {name} ({_reason(error)})",
            hint="pip install 'adaptzip[distill]', or the package that is named",
        ) from error
    except Exception as error:  # a guest raises what it likes
        raise BaseModelError(
            f"{folder}: transformers can't load it as {name} ({_reason(error)})",
            hint="give the base model's whole folder",
        ) from error


def load_config(base: Path) -> Any:
    """The configuration of a base model's folder, as transformers reads it.

    Raises:
        BaseModelError: if there is none, or transformers does not know such a model.
        RefusedError: if transformers is missing, or would have to run code from the folder.
    """
    raw = read_config(base)
    if not (base / "config.json").is_file():
        raise BaseModelError(
            f"{base}: holds no config.json, expected the folder of a transformers model",
            hint="give the folder that holds the base model's config.json, weights and tokeniser",
        )
    transformers, kind = import_transformers(), raw.get("model_type")
    if kind is None:
        raise BaseModelError(f"{base / 'config.json'}: names no model_type, by which a model is loaded", hint=AGAIN)
    if kind not in transformers.CONFIG_MAPPING:
        if raw.get("auto_map"):
            raise RefusedError(
                f"{base}: the model type {kind!r} is defined by code in its folder (auto_map), which is not run",
                hint="give a base model of a type that transformers has itself",
            )
        raise BaseModelError(
            f"{base}: transformers {transformers.__version__} does not know the model type {kind!r}",
            hint="pip install -U transformers, or give another base model",
        )
    return load_locally("AutoConfig", base)


def check_class(base: Path, config: Any, loader: str, kind: Kind) -> None:
    """Refuse a base model that transformers can't load for what it is to be, or that takes no text.

    Args:
        config: its configuration.
        loader: transformers' class.

    Raises:
        RefusedError: if there is no such model, or it takes pictures or sound.
    """
    transformers = import_transformers()
    known = getattr(transformers, loader)._model_mapping
    named = ", ".join(config.architectures or ())
    found = known[type(config)] if type(config) in known else getattr(transformers, named, None)
    takes = getattr(found[0] if isinstance(found, tuple) else found, "main_input_name", "input_ids")
    if takes != "input_ids":
        raise RefusedError(
            f"{base}: the model type {config.model_type!r} takes {takes}, and is not run on texts alone",
            hint="compress, export and merge need no run, compress without `calibration=`",
        )
    if type(config) not in known:
        is_now = named or config.model_type
        raise RefusedError(
            f"{base}: transformers has no {loader} for the model type {config.model_type!r}, as {kind} takes",
            hint=f"the base is a {is_now}: give another, or leave `kind='{kind}'` out if it was given",
        )
    if not hasattr(config.get_text_config(), "vocab_size"):
        raise RefusedError(
            f"{base}: the model type {config.model_type!r} has no vocabulary, which a text is read by here",
            hint="compress, export and merge need no run, compress without `calibration=`",
        )


def able_kinds(config: Any) -> list[Kind]:
    """What transformers has a class of a model for, what it is likeliest used for first.

    Raises:
        RefusedError: if transformers is missing.
    """
    models = import_transformers().models.auto.modeling_auto
    known: list[tuple[Kind, Any]] = [
        ("seq2seq", models.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING),
        ("encoder", models.MODEL_FOR_MASKED_LM_MAPPING),
        ("causal", models.MODEL_FOR_CAUSAL_LM_MAPPING),
        ("causal", models.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    ]
    return list(dict.fromkeys(kind for kind, mapping in known if type(config) in mapping))


def is_within(config: Any) -> bool:
    """Whether transformers has the language model of a type within a larger one alone, which reads pictures as well."""
    models = import_transformers().models.auto.modeling_auto
    larger, alone = models.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, models.MODEL_FOR_CAUSAL_LM_MAPPING
    return type(config) in larger and type(config) not in alone


def dry_load(folder: Path, tensors: Mapping[str, Tensor]) -> DryLoad | None:
    """Load tensors without data as transformers would load the weights of a folder, by its config.json.

    Args:
        folder: holds config.json; its weights are not read.
        tensors: on the meta device, by their names in the weight files.

    Returns:
        What came of it; None where transformers is missing or has no class of the name that config.json gives.

    Raises:
        BaseModelError: if transformers fails.
    """
    if find_spec("transformers") is None or find_spec("accelerate") is None:
        return None
    transformers = import_transformers()
    config = load_locally("AutoConfig", folder)
    name = str(next(iter(config.architectures or ()), None))
    model_class = getattr(transformers, name, None)
    if model_class is None:
        return None
    try:
        with _quiet(transformers):
            _, info = model_class.from_pretrained(
                None, config=config, state_dict=dict(tensors), device_map={"": "meta"}, local_files_only=True,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # a guest raises what it likes
        raise BaseModelError(f"{folder}: transformers can't load it as {name} ({_reason(error)})") from error
    mismatched = {key: (tuple(found), tuple(expected)) for key, found, expected in info["mismatched_keys"]}
    return DryLoad(name, mismatched, frozenset(info["missing_keys"]), frozenset(info["unexpected_keys"]))


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
