"""Write the reference of the library from its docstrings: `python -m checks.api_reference`.

It holds every public name: those in `adaptzip.__all__`, what its functions return, and those of the other public
modules. A public name without a docstring is a problem; so is a class attribute of which nothing is said, and a
parameter that the docstring's `Args` leaves out.
The test suite and `python -m checks.docs` fail where there is a problem, or the page differs from what this makes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from checks.docstrings import class_attributes, markdown, sections
from checks.markdown import anchors

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "api.md"
MODULES = (
    *("adaptzip", "adaptzip.errors", "adaptzip.testing", "adaptzip.core.method", "adaptzip.core.family"),
    *("adaptzip.core.survey", "adaptzip.checkpoints", "adaptzip.core.meta", "adaptzip.core.effects"),
    "adaptzip.serving.swapping",
)
"""Public modules; one that there is not is left out."""
_WIDTH = 100
_STARS: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_TITLE = "The library"
_START = f"""\
# {_TITLE}

<!-- Made by `python -m checks.api_reference`; do not edit. -->

The examples are run by the tests, each in a folder of its own with a PEFT adapter `my-adapter` and its model
`base-model`, after `import adaptzip` and `import torch`.
"""


@dataclass(frozen=True)
class Entry:
    """One public thing.

    Attributes:
        name: what a program calls it within its module, such as `Budget.parse`.
        module: the public module's name.
        value: the class or function; a property or method as the class has it.
    """

    name: str
    module: str
    value: Any

    @property
    def path(self) -> str:
        """Its whole name."""
        return f"{self.module}.{self.name}"

    @property
    def docstring(self) -> str:
        """Its own docstring, without indentation; "" where it has none, or only what its base says or Python makes."""
        text = self.value.__doc__ or ""
        made = inspect.isclass(self.value) and text.startswith(f"{self.value.__name__}(")  # By `dataclass`.
        return "" if made else inspect.cleandoc(text)

    @property
    def function(self) -> Any:
        """What is called: of a class, the class; None for a property, and a class of which nothing can be made."""
        if isinstance(self.value, property | cached_property):
            return None
        if inspect.isclass(self.value):
            return self.value if _is_made(self.value) else None
        return getattr(self.value, "__func__", self.value)

    @property
    def signature(self) -> str:
        """As it would be written: of a class, its bases and how one is made; "" for a property."""
        called = "" if self.function is None else _signature(self.name, self.function)
        if not inspect.isclass(self.value):
            return called
        bases = ", ".join(base.__name__ for base in self.value.__bases__ if base is not object)
        return f"class {self.name}({bases})\n{called}" if bases else f"class {self.name}\n{called}"


def main() -> int:
    """Write the page, and print every problem, one a line; 1 if there is one."""
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"wrote {PAGE}")
    found = list(problems())
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


def reference() -> str:
    """The page as it should be."""
    found = {name: entries for name, entries in every_entry().items() if entries}
    return f"{_START}\n{_contents(found)}{''.join(_section(name, entries) for name, entries in found.items())}"


def problems() -> Iterator[str]:
    """What is not documented, a line each, and that the page is old."""
    for entries in every_entry().values():
        for entry in entries:
            for one in (entry, *members(entry)):
                yield from problems_of(one)
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != reference():
        yield f"{PAGE.name}: the docstrings say something else; run python -m checks.api_reference"


def problems_of(entry: Entry) -> Iterator[str]:
    """What one docstring leaves out."""
    if not entry.docstring:
        yield f"{entry.path}: has no docstring"
    for section in sections(entry.docstring):
        if section.title == "Args" and entry.function is not None:
            wanted = [name for name in inspect.signature(entry.function).parameters if name not in ("self", "cls")]
        elif section.title == "Attributes" and is_dataclass(entry.value):
            wanted = [name for name in entry.value.__dataclass_fields__ if not name.startswith("_")]
        else:
            continue
        for name in wanted:
            if name not in section.names:
                yield f"{entry.path}: {section.title} does not tell of {name!r}"
    yield from (f"{entry.path}.{name}: has no docstring" for name, said in attributes(entry) if not said)


def every_entry() -> dict[str, list[Entry]]:
    """The public classes and functions of every public module, and what the functions return, each told once."""
    found: dict[str, list[Entry]] = {}
    seen: set[int] = set()
    for name in MODULES:
        if find_spec(name) is not None:
            module = import_module(name)
            entries = [Entry(own, name, value) for own, value in _public(module)]
            entries += [Entry(value.__name__, value.__module__, value) for value in _returned(entries)]
            found[name] = [entry for entry in entries if id(entry.value) not in seen]
            seen |= {id(entry.value) for entry in entries}
    return found


def members(entry: Entry) -> list[Entry]:
    """A class's own public methods and properties, but for tests, and for those that do what its base's do."""
    if not inspect.isclass(entry.value):
        return []
    kinds = (property, cached_property, classmethod, staticmethod)
    own = [(n, v) for n, v in vars(entry.value).items() if not n.startswith(("_", "test_"))]
    called = [(n, v) for n, v in own if isinstance(v, kinds) or inspect.isfunction(v)]
    told = [(n, v) for n, v in called if v.__doc__ or not any(hasattr(base, n) for base in entry.value.__bases__)]
    return [Entry(f"{entry.name}.{name}", entry.module, value) for name, value in told]


def attributes(entry: Entry) -> list[tuple[str, str]]:
    """A class's own public attributes that its docstring does not tell of, as assigned, and what is said of each."""
    if not inspect.isclass(entry.value) or is_dataclass(entry.value):
        return []
    told = {name for section in sections(entry.docstring) if section.title == "Attributes" for name in section.names}
    own = class_attributes(inspect.getsource(entry.value))
    return [(name, said) for name, said in own.items() if not name.startswith("_") and name not in told]


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes and functions by name: those that the module lists, or else those that it defines."""
    listed = getattr(module, "__all__", None)
    names = sorted(vars(module)) if listed is None else [name for name in listed if not name.startswith("_")]
    for name in names:
        value = getattr(module, name)
        defined = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        if (inspect.isclass(value) or inspect.isfunction(value)) and (listed is not None or defined):
            yield name, value


def _returned(entries: list[Entry]) -> Iterator[Any]:
    """The classes of our own that functions say they return, in order."""
    known = {id(entry.value) for entry in entries}
    for entry in entries:
        if inspect.isfunction(entry.value):
            function = inspect.unwrap(entry.value)
            for word in str(function.__annotations__.get("return")).split(" | "):
                value = function.__globals__.get(word)
                if inspect.isclass(value) and value.__module__.startswith("adaptzip.") and id(value) not in known:
                    known.add(id(value))
                    yield value


def _contents(found: dict[str, list[Entry]]) -> str:
    """A line of links for every module: to itself, and to what it has."""
    rows = [("", _TITLE)]
    for module, entries in found.items():
        rows.append((module, module))
        for entry in entries:
            rows += [(module, _heading(entry)), *(("", member.name) for member in members(entry))]
    links: dict[str, list[str]] = {module: [] for module in found}
    for (module, heading), anchor in zip(rows, anchors(heading for _, heading in rows), strict=True):
        if module:
            links[module].append(f"[{heading if heading == module else heading.rpartition('.')[2]}](#{anchor})")
    return "".join(f"- {first}: {', '.join(others)}\n" for first, *others in links.values())


def _section(module: str, entries: list[Entry]) -> str:
    said = inspect.cleandoc(import_module(module).__doc__ or "")
    return f"\n## {module}\n\n{said}\n{''.join(map(_rendered, entries))}"


def _rendered(entry: Entry) -> str:
    parts = [f"\n### {_heading(entry)}\n\n```text\n{entry.signature.strip()}\n```\n\n{markdown(entry.docstring)}"]
    parts += [f"\nClass attributes:\n\n{lines}" if (lines := "".join(map(_attribute, attributes(entry)))) else ""]
    tests = [name for name in dir(entry.value) if inspect.isclass(entry.value) and name.startswith("test_")]
    if tests:
        told = "".join(f"- {name.removeprefix('test_').replace('_', ' ')}\n" for name in tests)
        parts.append(f"\nIts tests, by their names:\n\n{told}")
    for member in members(entry):
        signature = f"```text\n{member.signature}\n```\n\n" if member.signature else ""
        parts.append(f"\n#### {member.name}\n\n{signature}{markdown(member.docstring)}")
    return "".join(parts)


def _attribute(told: tuple[str, str]) -> str:
    return f"- `{told[0]}`: {told[1]}\n"


def _heading(entry: Entry) -> str:
    return entry.name if entry.module in MODULES else entry.path


def _is_made(value: type) -> bool:
    """Whether a program makes objects of a class, rather than classes below it."""
    ours = any("__init__" in vars(base) for base in value.__mro__ if base.__module__.startswith("adaptzip"))
    return ours and not inspect.isabstract(value) and not getattr(value, "_is_protocol", False)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    kinds = inspect.Parameter
    parts: list[str] = []
    before = None
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is kinds.KEYWORD_ONLY and before not in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL):
            parts.append("*")
        before = parameter.kind
        parts.append(_parameter(parameter))
    gives = signature.return_annotation
    end = ")" if gives in (inspect.Signature.empty, "None", None) else f") -> {_written(gives)}"
    line = f"{name}({', '.join(parts)}{end}"
    return line if len(line) <= _WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + end


def _parameter(parameter: inspect.Parameter) -> str:
    stars = _STARS.get(parameter.kind, "")
    annotation = "" if parameter.annotation is parameter.empty else f": {_written(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{annotation}"
    shown = repr(parameter.default)
    return f"{parameter.name}{annotation} = {'...' if shown.startswith('<') else shown}"


def _written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


if __name__ == "__main__":
    sys.exit(main())
