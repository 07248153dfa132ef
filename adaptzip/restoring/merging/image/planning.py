"""What merging will do to each component of an image model, decided before anything is written."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptzip.checkpoints import conventions
from adaptzip.checkpoints._image.names import COMPONENTS, DENOISERS, ORIGINAL, SECOND
from adaptzip.checkpoints._image.pipelines import by_component, in_pipeline
from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.models.pipelines import component_folders
from adaptzip.restoring.merging.edits import Edit, WithinRows
from adaptzip.restoring.merging.image.encoders import places_of
from adaptzip.restoring.merging.image.families import titles_of
from adaptzip.restoring.merging.image.fitting import fitted, modules_of
from adaptzip.restoring.merging.image.views import Component, Rows, file_view, folder_view, layers_of
from adaptzip.restoring.merging.plan import MergePlan, Output, plan_merge

_MAIN = tuple(name for name in DENOISERS if name not in (ORIGINAL, SECOND))
"""A pipeline's folders of its first denoiser."""
_WHICH = "give the base model that the adapter was trained on"


@dataclass(frozen=True, eq=False)
class PipelinePlan:
    """What will be written of a pipeline's folder.

    Attributes:
        path: the folder.
        parts: what is done to each component that the adapter changes.
    """

    path: Path
    parts: Mapping[str, MergePlan]

    @property
    def modules(self) -> int:
        """How many modules are merged."""
        return sum(plan.modules for plan in self.parts.values())

    @property
    def extras(self) -> int:
        """How many extras are applied."""
        return sum(plan.extras for plan in self.parts.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the result, a line each."""
        return tuple(warning for plan in self.parts.values() for warning in plan.warnings)


def plan_pipeline(adapter: Adapter, path: Path, scale: float = 1.0) -> PipelinePlan:
    """Find the place of every module and extra in a pipeline's components.

    Raises:
        BaseModelError: if the pipeline lacks a component or a module, or a shape is another.
        CheckpointError: if two modules of the adapter are one of the base's.
        RefusedError: if a weight that the adapter changes is no float.
    """
    folders = component_folders(path)
    parts: dict[str, MergePlan] = {}
    seen: dict[str, str] = {}
    for name, part in _components(adapter).items():
        found = name
        if name == ORIGINAL:
            found = next((main for main in _MAIN if main in folders), name)
        if found not in folders:
            raise _without(path, name, part, folders)
        _check_once(path, found, name, seen)
        parts[found] = _plan(part, folder_view(BaseModel.open(folders[found])), scale)
    return PipelinePlan(path, parts)


def plan_file(adapter: Adapter, file: BaseModel, scale: float = 1.0) -> MergePlan:
    """Find the place of every module and extra in a file, and there in tensors that hold several layers; likewise."""
    places = places_of(file)
    components = _components(adapter)
    plans: list[tuple[Component, MergePlan]] = []
    seen: dict[str, str] = {}
    for name, part in components.items():
        where = "denoiser" if name in (*_MAIN, ORIGINAL) else name
        if not places and len(components) == 1:
            places = {where: ""}  # The file is this component alone.
        if where not in places:
            raise _without(file.path, name, part, places or ["one model, without the names of components"])
        _check_once(file.path, places[where], name, seen)
        view = file_view(file, places[where])
        plans.append((view, _plan(part, view, scale)))
    return _in_file(file, plans)


def alone(adapter: Adapter, base: BaseModel) -> Adapter:
    """An image model's adapter as that of the one component that a folder holds.

    Raises:
        BaseModelError: if the adapter is of other components, too.
    """
    if not conventions(adapter.meta.dialect).pipelines:
        return adapter
    parts = by_component(adapter)
    named = base.path.resolve().name
    for name, part in parts.items():
        fits = name == named or named not in COMPONENTS or (name == ORIGINAL and named in DENOISERS)
        if len(parts) > 1 or not fits:
            own = {ORIGINAL, named} if named in DENOISERS else {named}
            other = next((other for other in parts if other not in own), name)
            if named not in COMPONENTS:
                raise BaseModelError(
                    f"{base.path}: is one model, and the adapter is of several of a pipeline: {', '.join(parts)}",
                    hint="give the pipeline that the adapter was trained on",
                )
            raise _without(base.path, other, parts[other], [named])
        return fitted(part, folder_view(base))
    return adapter


def _components(adapter: Adapter) -> dict[str, Adapter]:
    if conventions(adapter.meta.dialect).pipelines:
        return by_component(adapter)
    try:
        return by_component(in_pipeline(adapter, "a pipeline"))
    except RefusedError as error:
        first = next(iter(adapter.modules))
        raise RefusedError(
            f"the adapter is no image model's, as the base is: {first} is a module of no component that is known",
            hint="give the model that the adapter was trained on, or for a component its own folder",
        ) from error


def _plan(adapter: Adapter, component: Component, scale: float) -> MergePlan:
    with naming_families(adapter, component.model):
        return plan_merge(fitted(adapter, component), component.model, scale)


@contextmanager
def naming_families(adapter: Adapter, base: BaseModel) -> Iterator[None]:
    """Say in an error that the base does not fit which models both look like, where they look like different ones."""
    try:
        yield
    except BaseModelError as error:
        ours, theirs = titles_of(modules_of(adapter)), titles_of(layers_of(base))
        if not ours or not theirs or set(ours) & set(theirs):
            raise
        raise BaseModelError(
            f"{error}; the adapter looks like one of {' or '.join(ours)}, the base like {' or '.join(theirs)}",
            hint=_WHICH,
        ) from error


def _without(path: Path, component: str, part: Adapter, there: Collection[str]) -> BaseModelError:
    names = [*part.modules, *(effect.tensor for effect in part.resolved.extras.values())]
    near = difflib.get_close_matches(component, there, n=1)
    hint = f"the nearest there is {near[0]}; {_WHICH}" if near else _WHICH
    return BaseModelError(
        f"{path}: has no {component}, which {len(names)} of the adapter's modules are of, such as "
        f"{component}.{names[0]}; it has {', '.join(sorted(there))}",
        hint=f"{hint}, with all the components that it changes",
    )


def _in_file(file: BaseModel, plans: Sequence[tuple[Component, MergePlan]]) -> MergePlan:
    """What is done to the models in a file as what is done to its tensors."""
    edits: dict[str, list[Edit]] = {}
    for component, plan in plans:
        for output in plan.outputs[0]:
            if output.source is None or output.stored.shape != component.model.stored(output.source).shape:
                raise BaseModelError(f"{file.path}: has no place for {output.stored.name} of the adapter", hint=_WHICH)
            place = component.places[output.source]
            edits.setdefault(place.tensor, []).extend(_within(edit, place) for edit in output.edits)
    outputs = [Output(stored, name, tuple(edits.get(name, ()))) for name, stored in file.shards[0].tensors.items()]
    warnings = tuple(warning for _, plan in plans for warning in plan.warnings)
    modules, extras = sum(plan.modules for _, plan in plans), sum(plan.extras for _, plan in plans)
    return MergePlan(file, (tuple(outputs),), None, modules, extras, warnings=warnings)


def _check_once(path: Path, place: str, name: str, seen: dict[str, str]) -> None:
    """Refuse two of an adapter's components that are one of the base's, and remember this one."""
    if place in seen:
        raise RefusedError(
            f"the adapter's {seen[place]} and {name} are both of one model in {path}, which would be changed twice",
            hint="split the adapter, and merge one part after the other if that is what you want",
        )
    seen[place] = name


def _within(edit: Edit, place: Rows) -> Edit:
    return edit if place.rows is None else WithinRows(edit, *place.rows)
