"""Messages of a conversation, as data sets write them and as chat templates take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adaptzip.errors import CheckpointError
from adaptzip.models.texts.cells import whole
from adaptzip.models.texts.record import Record

Message = Mapping[str, Any]

_SPEAKERS: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Roles by who speaks in the form of ShareGPT."""
_ANSWERS = ("assistant", "model")
"""Roles of the model itself."""


def messages_of(record: Record, field: str, value: Sequence[object]) -> tuple[Message, ...]:
    """The messages of a list, whole; those of ShareGPT's form, with `from` and `value`, as roles and contents.

    Raises:
        CheckpointError: if one is no message, or is made of more than text.
    """
    found = tuple(_message(record, field, item) for item in value)
    for text in (text for message in found for text in _texts(message)):
        whole(record.place, field, text)
    return found


def up_to_answer(messages: Sequence[Message]) -> tuple[tuple[Message, ...], int]:
    """The messages up to the last answer, and how many come before it; all of them, and 0, where there is no answer."""
    last = next((place for place in reversed(range(len(messages))) if messages[place]["role"] in _ANSWERS), 0)
    return tuple(messages[: last + 1] if last else messages), last


def is_message(item: object) -> bool:
    """Whether it is a message in either form."""
    return isinstance(item, Mapping) and all(key in item for key in ("from", "value")) or _has_role(item)


def _has_role(item: object) -> bool:
    if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
        return False
    content = item.get("content")
    return isinstance(content, str | list) or content is None and bool(item.get("tool_calls"))


def _message(record: Record, field: str, item: object) -> Message:
    if not isinstance(item, Mapping) or not is_message(item):
        raise CheckpointError(
            f"{record.place}: {field!r} is not a text, nor a list of words or messages",
            hint="a message is an object with a role and its content",
        )
    message = item if _has_role(item) else _of_speaker(record, field, item)
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise CheckpointError(
                f"{record.place}: {field!r} has a message with a part of type {kind!r}, expected text alone",
                hint="leave out messages with more than text",
            )
    return message


def _of_speaker(record: Record, field: str, item: Mapping[str, Any]) -> Message:
    role, content = _SPEAKERS.get(str(item["from"])), item["value"]
    if role is None or not isinstance(content, str):
        raise CheckpointError(
            f"{record.place}: {field!r} has a message from {item['from']!r} whose role is not known",
            hint=f"it may be from {', '.join(_SPEAKERS)}; else give messages with a role and their content",
        )
    return {"role": role, "content": content}


def parts_of(message: Message) -> list[str]:
    """The texts that the content of a message is made of."""
    content = message.get("content") or ""
    return [part["text"] for part in content] if isinstance(content, list) else [content]


def content_of(message: Message) -> str:
    """The text of a message; of one that calls tools alone what it calls."""
    return "".join(parts_of(message)) or str(message.get("tool_calls") or "")


def joined(message: Message) -> Message:
    """The message with its content as one text, where it is a list of parts."""
    return {**message, "content": content_of(message)} if isinstance(message.get("content"), list) else message


def _texts(value: object) -> Iterator[str]:
    """Every text within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)
