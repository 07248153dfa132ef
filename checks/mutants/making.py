"""The mutants of a file: its source with one small mistake each, by cosmic-ray's operators."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from random import Random
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


@dataclass(frozen=True)
class Mutant:
    """One changed file.

    Attributes:
        file: path from the root of the repository.
        line: the first line that differs, from 1.
        before, after: the lines that differ, without the blanks around them, as they were and as they are.
        source: the whole file as it is.
    """

    file: str
    line: int
    before: str
    after: str
    source: str


def draw(sources: Mapping[str, str], seed: int) -> Iterator[Mutant]:
    """The mutants of some files in an order that the seed decides, each once; none that only differs in messages.

    Args:
        sources: what stands in the files, by their paths from the root of the repository.
    """
    places = [(file, *place) for file, source in sources.items() for place in _places(source)]
    Random(seed).shuffle(places)
    seen = {(file, meaning(source)) for file, source in sources.items()}
    for file, operator, place in places:
        source = mutate_code(sources[file], operator, place)
        told = (file, meaning(source))
        if told[1] is not None and told not in seen:
            seen.add(told)
            yield _mutant(file, sources[file], source)


def meaning(source: str) -> str | None:
    """What a source does, as text: equal where only types, docstrings or messages differ; None if it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    return ast.dump(_Meaning().visit(tree))


def _places(source: str) -> Iterator[tuple[Any, int]]:
    """Every operator with each of its places in a source."""
    nodes = list(ast_nodes(get_ast(source)))
    for operator in _operators():
        places = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        yield from ((operator, place) for place in range(places))


@cache
def _operators() -> tuple[Any, ...]:
    """Those that need to be told nothing: replacing variables has no end, and draws at random."""
    classes = [get_operator(name) for name in operator_names()]
    return tuple(found() for found in classes if not found.arguments())


def _mutant(file: str, original: str, source: str) -> Mutant:
    before, after = original.splitlines(), source.splitlines()
    steps = [step for step in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if step[0] != "equal"]
    first, last = steps[0], steps[-1]
    return Mutant(file, first[1] + 1, _joined(before[first[1] : last[2]]), _joined(after[first[3] : last[4]]), source)


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


class _Meaning(ast.NodeTransformer):
    """Leaves out what no test should hold: types, docstrings, and the texts of errors and warnings."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """Whether a parameter may be named or must be is part of its type."""
        self.generic_visit(node)
        placed = [*node.posonlyargs, *node.args]
        required = [ast.Constant(...)] * (len(placed) - len(node.defaults))
        node.defaults = [*required, *node.defaults, *(default or ast.Constant(...) for default in node.kw_defaults)]
        node.args = [*placed, *node.kwonlyargs]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = [line for line in node.body if not _is_alias(line)]
        return self._without_docstring(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.AST]:
        if "TYPE_CHECKING" in ast.dump(node.test):
            return []
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A warning's text, and an error that is made here and raised elsewhere."""
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in {"warn", "cast", "TypeVar"} or name.endswith(("Error", "Warning")):
            node.args, node.keywords = [], []
        return self.generic_visit(node)

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> ast.AST:
        node.body = [line for line in node.body if not _is_text(line)] or [ast.Pass()]
        return self.generic_visit(node)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _is_alias(line: ast.stmt) -> bool:
    """Whether a line of a module gives a type a name, as in `Text = str | None`."""
    if not isinstance(line, ast.Assign) or not isinstance(line.value, ast.BinOp | ast.Subscript):
        return False
    plain = (ast.BinOp, ast.operator, ast.Name, ast.Subscript, ast.Tuple, ast.List, ast.Constant, ast.Attribute)
    return all(isinstance(node, (*plain, ast.expr_context)) for node in ast.walk(line.value)) and not any(
        isinstance(node, ast.Constant) and isinstance(node.value, int | float) for node in ast.walk(line.value)
    )
