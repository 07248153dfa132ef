"""Chat templates: what they make of messages is what transformers makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from adaptzip.errors import RefusedError
from adaptzip.models.texts.tokenisers import load_tokeniser
from tests.cases import tiny_peft
from tests.cases.models_on_disk import WORDS, save

PLAIN = "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }} {% endfor %}"
PARTS = "{% for m in messages %}{% for p in m['content'] if p is mapping %}{{ p['text'] }} {% endfor %}{% endfor %}"
NOTHING = "{% for m in messages %}a {% endfor %}"
CALLS = "{% for m in messages %}{{ m.content or m.tool_calls[0].function.name }} {{ m.name or '' }} {% endfor %}"
TEXT = {"role": "a", "content": "c d"}
PARTED = {"role": "a", "content": [{"type": "text", "text": "c "}, {"type": "text", "text": "d"}]}


def folder(where: Path, template: str) -> Path:
    base = save(tiny_peft.llama, where)
    tokeniser = AutoTokenizer.from_pretrained(base)
    tokeniser.chat_template = template
    tokeniser.save_pretrained(base)
    return base


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


@pytest.mark.parametrize(("template", "expected"), [(PLAIN, "a c d"), (PARTS, "c d")])
def test_parts_are_read_as_the_template_takes_them(template: str, expected: str, tmp_path: Path) -> None:
    tokeniser = load_tokeniser(folder(tmp_path, template))
    assert tokeniser.encode_chat([PARTED]) == ids(expected)
    if template == PLAIN:
        assert tokeniser.encode_chat([TEXT]) == ids(expected)


def test_what_a_template_leaves_out_is_refused(tmp_path: Path) -> None:
    tokeniser = load_tokeniser(folder(tmp_path, NOTHING))
    with pytest.raises(RefusedError, match="chat template leaves out what the messages say"):
        tokeniser.encode_chat([PARTED])


def test_calls_and_names_reach_the_template(tmp_path: Path) -> None:
    tokeniser = load_tokeniser(folder(tmp_path, CALLS))
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "e", "arguments": {}}}]}
    assert tokeniser.encode_chat([{"role": "tool", "name": "f", "content": "d"}, called]) == ids("d f e")
