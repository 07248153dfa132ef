"""transformers, the guest: imported when needed, and kept off the network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptzip.calibration.kinds import Kind
from adaptzip.errors import BaseModelError, RefusedError


def import_transformers() -> Any:
    """The package.

    Raises:
        RefusedError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise RefusedError(
            "calibration runs the base model, which needs the package transformers",
            hint="pip install 'adaptzip[distill]'",
        ) from error
    return transformers


def load_locally(name: str, folder: Path, **options: Any) -> Any:
    """transformers' `name.from_pretrained` of a folder: no network, no code from the folder, nothing printed.

    Raises:
        RefusedError: if transformers is missing.
        BaseModelError: if it can't load the folder.
    """
    transformers = import_transformers()
    try:
        with _quiet(transformers):
            return getattr(transformers, name).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BaseModelError(
            f"{folder}: transformers can't load it as {name} ({reason})", hint="give the base model's whole folder"
        ) from error


def able_kinds(config: Any) -> list[Kind]:
    """What transformers has a class of a model for, what it is likeliest used for first.

    Raises:
        RefusedError: if transformers is missing.
    """
    models = import_transformers().models.auto.modeling_auto
    known: dict[Kind, Any] = {
        "seq2seq": models.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        "encoder": models.MODEL_FOR_MASKED_LM_MAPPING,
        "causal": models.MODEL_FOR_CAUSAL_LM_MAPPING,
    }
    return [kind for kind, mapping in known.items() if type(config) in mapping]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
