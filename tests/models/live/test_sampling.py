"""Text that a model writes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import MambaConfig, MambaForCausalLM

from adaptzip.errors import RefusedError
from adaptzip.models.live.running import LoadedModel, load_base
from adaptzip.models.live.sampling import sample_ids
from tests.cases import tiny_peft
from tests.cases.models_on_disk import save

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(folder: Path, **special: str) -> LoadedModel:
    loaded = load_base(save(tiny_peft.gpt2, folder, **special), [], CPU)
    # Without a text's end in the configuration, and with distributions that are far from even.
    loaded.model.config.eos_token_id = None  # type: ignore[union-attr]
    loaded.model.lm_head.weight.data *= 20  # type: ignore[union-attr, operator]
    return loaded


def test_what_is_drawn_follows_the_models_distributions(tmp_path: Path) -> None:
    loaded = model(tmp_path, bos_token="<s>")
    firsts = torch.tensor([ids[:2] for ids in sample_ids(loaded, 4000, 3, seeded(0))])
    start = torch.full((1, 1), 1)
    expected = loaded.model(input_ids=start).logits[0, -1].softmax(0)
    found = torch.bincount(firsts[:, 0], minlength=32) / len(firsts)
    assert float((found - expected).abs().sum()) < 0.1
    # The second token follows the first, through the cache.
    common = int(expected.argmax())
    second = firsts[firsts[:, 0] == common, 1]
    expected = loaded.model(input_ids=torch.tensor([[1, common]])).logits[0, -1].softmax(0)
    uniform = float((expected - 1 / 32).abs().sum())
    found = torch.bincount(second, minlength=32) / len(second)
    assert float((found - expected).abs().sum()) < min(0.2, uniform / 2)


def test_the_same_seed_writes_the_same(tmp_path: Path) -> None:
    loaded = model(tmp_path, bos_token="<s>")
    assert sample_ids(loaded, 5, 12, seeded(3)) == sample_ids(loaded, 5, 12, seeded(3))
    assert sample_ids(loaded, 5, 12, seeded(3)) != sample_ids(loaded, 5, 12, seeded(4))


def test_a_text_stops_before_its_end_and_in_time(tmp_path: Path) -> None:
    loaded = model(tmp_path, bos_token="<s>")
    assert {len(ids) for ids in sample_ids(loaded, 8, 6, seeded(0))} == {5}
    assert {len(ids) for ids in sample_ids(loaded, 8, 100, seeded(0))} == {15}
    free = sample_ids(loaded, 40, 16, seeded(0))
    loaded.model.config.eos_token_id = [7, 9]  # type: ignore[union-attr]
    stopped = sample_ids(loaded, 40, 16, seeded(0))
    expected = [ids[: next((i for i, token in enumerate(ids) if token in (7, 9)), None)] for ids in free]
    assert stopped == expected
    assert stopped != free


def test_the_end_token_starts_a_text_where_there_is_no_other(tmp_path: Path) -> None:
    loaded = model(tmp_path / "a", eos_token="e")
    assert loaded.tokeniser.start == loaded.tokeniser.end == 6
    assert loaded.ends == {6}
    assert all(6 not in ids for ids in sample_ids(loaded, 20, 10, seeded(0)))
    with pytest.raises(RefusedError, match="no token that a text starts with"):
        sample_ids(model(tmp_path / "b"), 1, 4, seeded(0))


def test_the_cache_changes_nothing(tmp_path: Path) -> None:
    loaded = model(tmp_path, bos_token="<s>")
    (ids,) = sample_ids(loaded, 1, 10, seeded(5))
    generator, again = seeded(5), [1]
    for _ in ids:
        logits = loaded.model(input_ids=torch.tensor([again])).logits[:, -1]
        again.append(int(torch.multinomial(functional.softmax(logits.float(), 1), 1, generator=generator)))
    assert again[1:] == ids


def test_a_recurrent_model_writes_as_it_reads(tmp_path: Path) -> None:
    def mamba() -> Any:
        tiny_peft.set_seed(0)
        return MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, state_size=4))

    loaded = load_base(save(mamba, tmp_path, bos_token="<s>"), [], CPU)
    loaded.model.config.eos_token_id = None  # type: ignore[union-attr]
    loaded.model.get_output_embeddings().weight.data *= 20  # type: ignore[operator]
    (ids,) = sample_ids(loaded, 1, 8, seeded(5))
    generator, again = seeded(5), [1]
    for _ in range(7):
        logits = loaded.model(input_ids=torch.tensor([again])).logits[:, -1]
        again.append(int(torch.multinomial(functional.softmax(logits.float(), 1), 1, generator=generator)))
    assert again[1:] == ids
