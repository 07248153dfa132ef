"""What the dialects of image models share: reading by module and part, and writing back in the same spelling."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, WriteOptions
from adaptzip.checkpoints._image.factors import factors_of, made_of, warn_of_growth
from adaptzip.checkpoints._image.keys import by_module, spelling_of
from adaptzip.checkpoints._image.names import COMPONENTS, DENOISERS
from adaptzip.checkpoints._image.origin import Origin, parts_of
from adaptzip.checkpoints._image.pipelines import in_pipeline
from adaptzip.checkpoints._image.writing import Plan, file_tensors
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._losses import Loss, losses_of
from adaptzip.checkpoints._parts import AGAIN, Parts, check_numbers
from adaptzip.checkpoints._registry import conventions
from adaptzip.checkpoints._rescaling import in_own_dtype
from adaptzip.checkpoints._safetensors import Contents, SafetensorsWriter
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.effects import Effect, Effects
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, UsageError
from adaptzip.files.tensors import Pending, build_header, fits

_ADDED = {"diff": ".weight", "diff_b": ".bias"}
"""Parts that are added to a tensor of the base as they are, with what its name ends with."""
_NAMES_OF_BASE = ("ss_sd_model_name", "modelspec.architecture", "ss_base_model_version")


class ImageReader(Reader):
    """A dialect whose keys are a module's spelling and the name of a part; its configuration is what files do not say.

    The fields of the configuration: `keys`, the spelling of the factors; `alpha`, whether modules have one;
    `metadata`, that of the source's safetensors file.
    """

    pipelines = True
    spelling: ClassVar[str] = "lora_down"
    """How factors are spelled where no source says."""
    alphas: ClassVar[bool] = True
    """Whether modules have an alpha where no source says."""

    @abstractmethod
    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        """The module that each spelling of a module in the file means.

        Raises:
            CheckpointError: if one has no meaning.
        """

    def scalings(self, metadata: Mapping[str, Any], names: Iterable[str], where: object) -> Mapping[str, float]:
        """The scales of modules that a file's metadata tells.

        Raises:
            CheckpointError: if it is malformed, naming `where` it is.
        """
        return {}

    def details(self, source: Checkpoint, names: Mapping[str, str]) -> Mapping[str, Any]:
        """What else the configuration has to remember so that the same keys come out."""
        return {}

    def whole(self, key: str) -> bool:
        """Whether a key is that of a tensor which replaces the base's."""
        return False

    def read(self, source: Checkpoint) -> Adapter:
        replacing = [key for key in source.tensors if self.whole(key)]
        parts = by_module(source, self.title, replacing)
        names = self.names([*parts, *(key.rpartition(".")[0] for key in replacing)], source)
        scalings = self.scalings(source.metadata, names.values(), source.weights)
        modules: dict[str, LoraFactors] = {}
        extras: dict[str, Tensor] = {}
        alone: dict[str, float] = {}
        kept: dict[str, Tensor] = {}
        for key in replacing:
            stem, _, leaf = key.rpartition(".")
            check_numbers(source, key)
            extras[f"{PREFIX}{names[stem]}.{leaf}"] = source.tensors[key]
        for stem, keys in parts.items():
            name = names[stem]
            added = _added(source, keys)
            extras |= {f"{PREFIX}{name}{leaf}": tensor for leaf, tensor in added.values()}
            factors = {part: key for part, key in keys.items() if part not in added}
            if set(factors) == {"alpha"} and added:
                alone[stem] = float(source.tensors[factors["alpha"]].double())  # It scales nothing, and is kept.
            elif factors:
                if name in modules:
                    raise CheckpointError(f"{source.weights}: two modules of the file mean {name}", hint=AGAIN)
                modules[name] = factors_of(source, name, factors, scalings.get(name))
                kept |= parts_of(source, name, factors, modules[name])
        if not modules:
            raise CheckpointError(f"{source.weights}: holds no factors of {self.title}", hint=AGAIN)
        meta = self._meta(source, parts, names, {"alone": alone} if alone else {})
        warn_of_growth(source, modules)
        return Adapter(dict(sorted(modules.items())), extras, replace(meta, parts=MappingProxyType(kept)))

    def _meta(
        self, source: Checkpoint, parts: Mapping[str, Parts], names: Mapping[str, str], more: Mapping[str, Any]
    ) -> Meta:
        base = next((source.metadata[key] for key in _NAMES_OF_BASE if key in source.metadata), None)
        config = {
            "keys": spelling_of(source.tensors, self.spelling),
            "alpha": any("alpha" in keys for keys in parts.values()),
            **_ends(source),
            **made_of(parts),
            **more,
            **self.details(source, names),
            "metadata": dict(source.metadata),
        }
        return Meta(self.name, MappingProxyType(config), base, source.header)

    def effects(self, adapter: Adapter) -> Effects:
        """Differences are added to the base's tensors; a tensor that the dialect has whole replaces the base's."""
        names = {key: key.removeprefix(PREFIX) for key in adapter.extras}
        return Effects({key: Effect("replace" if self.whole(name) else "add", name) for key, name in names.items()})


class ImageDialect(ImageReader, SafetensorsWriter):
    """An image dialect that is written as well."""

    files = Files(("lora.safetensors",), None, ("lora.safetensors",))
    peft_dora: ClassVar[bool] = False
    """Whether DoRA's magnitudes are called and shaped as PEFT's are."""

    @abstractmethod
    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        """How a module is spelled in a file, the reverse of `names`.

        Raises:
            RefusedError: if the dialect has no spelling for it.
        """

    def assumed(self, adapter: Adapter) -> Mapping[str, Any]:
        """The configuration for an adapter that was read from another dialect."""
        return {}

    def respelled(self, adapter: Adapter) -> Adapter:
        """The same update of modules as files of this dialect call and cut them, and what lies beside them likewise.

        Raises:
            RefusedError: if a module has no name there.
        """
        return adapter

    def unusual(self, config: Mapping[str, Any]) -> bool:
        """Whether a source of this dialect was spelled as not all of the dialect's programs read it."""
        return False

    def holds(self, effect: Effect) -> bool:
        """Whether files of this dialect have a place for what an extra does."""
        return effect.role == "add"

    def spelled(self, adapter: Adapter) -> Adapter:
        if adapter.meta.dialect == self.name:
            return adapter
        if not conventions(adapter.meta.dialect).pipelines:
            adapter = in_pipeline(adapter, self.title)
        meta = replace(adapter.meta, header=None, config_text=None, parts=MappingProxyType({}))
        return replace(self.respelled(adapter), meta=meta)

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        if adapter.meta.dialect == self.name:
            return ()
        effects = adapter.resolved.extras
        components = {name.partition(".")[0] for name in adapter.modules} | set(COMPONENTS) - set(DENOISERS)
        here = [key for key in adapter.extras if effects[key].tensor.partition(".")[0] in components]
        lost = [key for key in adapter.extras if not self.holds(effects[key])]
        nameless = [key for key in adapter.extras if key not in here and key not in lost]
        others = [name for name, factors in adapter.modules.items() if factors.layout not in ("linear", "conv")]
        return losses_of(
            ("tensors beside the factors", "extra", lost),
            ("tensors of layers that have no name there, or are part of another layer", "extra", nameless),
            ("updates that lie otherwise", "module", others),
        )

    def contents(self, adapter: Adapter, options: WriteOptions) -> Contents:
        if options.portable:
            raise UsageError(
                f"`portable=True` is a form of PEFT's folders, and {self.title} has none", hint="leave it out"
            )
        own = adapter.meta.dialect == self.name and not (options.named and self.unusual(adapter.meta.config))
        config = adapter.meta.config if own else self.assumed(adapter)
        if options.dtype is None and adapter.meta.dtype is not None:
            adapter = in_own_dtype(adapter, adapter.meta.dtype)
        plan = Plan(
            spelling=str(config.get("keys", self.spelling)),
            alphas=bool(config.get("alpha", self.alphas)),
            stem=lambda name: self.stem(name, config),
            peft_dora=self.peft_dora,
            norms=bool(config.get("norms")),
            alone=config.get("alone") or {},
            dtype=options.dtype,
            exact=adapter.meta.dtype is None,
        )
        told = self.scalings(config.get("metadata") or {}, adapter.modules, "the adapter") if own else {}
        header = adapter.meta.header if own and self._tells(told, adapter, config) else None
        tensors: Mapping[str, Pending] = {}
        if header is not None:
            origin = Origin.of(header, adapter.meta.parts, told)
            tensors = file_tensors(adapter, replace(plan, header=header, origin=origin))
        if header is None or not fits(tensors, header):
            tensors = file_tensors(adapter, plan)
            header = build_header(tensors, self.metadata(adapter, config, own))
        return Contents(tensors, header)

    def _tells(self, told: Mapping[str, float], adapter: Adapter, config: Mapping[str, Any]) -> bool:
        """Whether the source's own header still tells every scale that no alpha does."""
        alphas = config.get("alpha", self.alphas)
        return all(
            factors.scaling == told.get(name, factors.scaling if alphas else 1.0)
            for name, factors in adapter.modules.items()
        )

    def metadata(self, adapter: Adapter, config: Mapping[str, Any], own: bool) -> dict[str, str]:
        """The metadata of a file that is written: the source's own, where it was of this dialect."""
        found = adapter.meta.config.get("metadata") if own else None
        return {str(key): _text(value) for key, value in (found or {"format": "pt"}).items()}


def _ends(source: Checkpoint) -> Mapping[str, bool]:
    """Whether differences of tensors are called as those of norms are."""
    return {"norms": True} if any(key.endswith((".w_norm", ".b_norm")) for key in source.tensors) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _added(source: Checkpoint, keys: Parts) -> dict[str, tuple[str, Tensor]]:
    """The differences of tensors for which there are no factors: vectors, and biases; each with
    what its tensor's name ends with."""
    found = {}
    for part, leaf in _ADDED.items():
        if part not in keys:
            continue
        tensor = source.tensors[keys[part]]
        # What broadcasts over a batch is a parameter by itself, such as Wan's modulation, and no layer's weight.
        alone = part == "diff" and tensor.ndim == 3 and tensor.shape[0] == 1
        if part == "diff_b" or tensor.ndim < 2 or alone:
            check_numbers(source, keys[part])
            found[part] = ("" if alone else leaf, tensor)
    return found
