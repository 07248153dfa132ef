"""Which forms of examples each kind of model takes, as it is evaluated, trained and calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.models.kinds import Kind
from adaptzip.models.texts.cells import list_in
from adaptzip.models.texts.example import Example

_ONE_TEXT = "name the one text with `text_field=` alone"


def check_forms(kind: Kind, score: str | None, examples: Sequence[Example]) -> None:
    """Refuse examples that a model is not for.

    Args:
        score: what of a prompt with its completion is to count, where that was asked for.

    Raises:
        UsageError: if there are pairs, completions or messages that the model does not read, or none to be scored.
        CheckpointError: if only some have a completion, or a text to be written, or one has two.
    """
    if kind in ("causal", "seq2seq", "tokens"):
        _refuse(examples, lambda e: e.pair is not None, f"a model for {kind} reads no pairs, as that of", _ONE_TEXT)
    if kind != "tokens":
        said = f"a model for {kind} reads no lists of words, as that of"
        _refuse(examples, lambda e: bool(e.words), said, "give one text in each row")
    if kind in ("seq2seq", "tokens"):
        said = f"a model for {kind} reads no messages, as those of"
        _refuse(examples, lambda e: bool(e.messages), said, "name the field of a text with `text_field=`")
    if kind not in ("causal", "seq2seq"):
        said = f"a model for {kind} reads no completions, as that of"
        hint = f"{_ONE_TEXT}, or with `pair_field=` where there are two"
        _refuse(examples, lambda e: e.completion is not None, said, hint)
    if score is not None and kind != "causal":
        raise UsageError(f"a model for {kind} scores no completions", hint="drop `score=`")
    if score == "completion" and not any(example.completes for example in examples):
        raise UsageError(
            "there is no completion to score", hint="give rows with a prompt and a completion, or with messages"
        )
    if kind == "causal" and score != "all":
        _check_all_complete(examples)
    if kind == "seq2seq":
        _check_targets(examples)


def _refuse(examples: Sequence[Example], unfit: Callable[[Example], bool], said: str, hint: str) -> None:
    found = next(filter(unfit, examples), None)
    if found is not None:
        raise UsageError(f"{said} {found.start}", hint=hint)


def _check_all_complete(examples: Sequence[Example]) -> None:
    without = next((example for example in examples if not example.completes), None)
    if without is not None and any(example.completes for example in examples):
        raise CheckpointError(
            f"the text {without.start} has no completion or answer to be scored, which others have",
            hint="leave such rows out, or count whole texts with `score='all'`",
        )


def _check_targets(examples: Sequence[Example]) -> None:
    two = next((e for e in examples if e.label is not None and e.completion is not None), None)
    if two is not None:
        raise CheckpointError(
            f"the text {two.start} has a label and a completion, which are both texts to be written",
            hint="drop `label_field=`, or name the text with `text_field=`",
        )
    if len({e.label is not None or e.completion is not None for e in examples}) > 1:
        raise CheckpointError(
            "some examples have a text to be written and some have none", hint="label all of them, or none"
        )


def words_of(example: Example) -> tuple[str, ...]:
    """The words of a text that has classes for them: those of its list, or what stands between blanks.

    Raises:
        CheckpointError: if the text is a list in a cell of which it is not said that it is one.
    """
    if not example.words and list_in(example.text):
        raise CheckpointError(
            f"the text {example.start} may be a list of words, or a text with brackets",
            hint="call the field words where it is a list",
        )
    return example.words or tuple(example.text.split())
