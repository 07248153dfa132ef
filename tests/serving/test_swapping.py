"""Swapping on a live model: every output is that of exactly one adapter, however many threads run it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import BaseModelError, RefusedError, UsageError
from adaptzip.restoring.live import guests
from adaptzip.serving.swapping import Swapping
from tests.cases.tiny_peft import llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
IDS = torch.arange(1, 9)[None]
WAIT = 20.0
"""Seconds after which a thread is given up."""


@torch.no_grad()
def output(model: Any) -> Tensor:
    found: Tensor = model.eval()(input_ids=IDS).logits
    return found


def adapter_of(model: Any, seed: int, rank: int = 2) -> Adapter:
    generator = torch.Generator().manual_seed(9_000_000 + seed)
    modules = {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "v_proj", "down_proj")):
            A = torch.randn(rank, module.in_features, generator=generator)
            modules[name] = LoraFactors(A, torch.randn(module.out_features, rank, generator=generator))
    return Adapter(modules)


def outputs_alone(adapters: list[Adapter]) -> list[Tensor]:
    model = llama()
    swapping = Swapping(model, adapters[0])
    found = []
    for adapter in adapters:
        swapping.swap(adapter)
        found.append(output(model))
    return found


def test_under_load_every_output_is_of_one_adapter() -> None:
    model = llama()
    adapters = [adapter_of(model, seed, rank=2 + seed % 2) for seed in range(4)]
    alone = outputs_alone(adapters)
    assert all(not torch.equal(one, other) for n, one in enumerate(alone) for other in alone[:n])
    swapping = Swapping(model, adapters[0])
    stop, wrong, seen = threading.Event(), [], set()

    def ask() -> None:
        while not stop.is_set():
            with swapping.running() as label:
                found = output(model)
            seen.add(label)
            if not torch.equal(found, alone[int(label or 0)]):
                wrong.append(label)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(24):
        swapping.swap(adapters[number % 4], label=str(number % 4))
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    assert not wrong
    assert len(seen) > 1


def test_a_swap_waits_for_what_runs_and_what_comes_later_waits_for_it() -> None:
    model = llama()
    first, second = (adapter_of(model, seed) for seed in (0, 1))
    swapping = Swapping(model, first)
    order: list[str] = []

    def swap() -> None:
        swapping.swap(second, label="second")
        order.append("swapped")

    def run() -> None:
        with swapping.running() as label:
            order.append(label)

    with swapping.running():
        swapper = threading.Thread(target=swap)
        swapper.start()
        while not swapping._gate._loners:
            pass
        runner = threading.Thread(target=run)
        runner.start()
        with swapping.running() as label:  # Whoever is inside may come in again.
            assert label == ""
        runner.join(0.1)
        assert runner.is_alive()
        assert order == []
    for thread in (swapper, runner):
        thread.join(WAIT)
    assert sorted(order) == ["second", "swapped"]


def test_a_swap_within_a_request_is_refused() -> None:
    model = llama()
    swapping = Swapping(model, adapter_of(model, 0))
    with swapping.running(), pytest.raises(UsageError, match="which it would wait for"):
        swapping.swap(adapter_of(model, 1))
    swapping.swap(adapter_of(model, 1))


def test_where_a_swap_fails_the_adapter_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    swapping = Swapping(model, adapter_of(model, 0))
    before = output(model)
    wide = Adapter({"model.layers.0.self_attn.q_proj": LoraFactors(torch.ones(1, 99), torch.ones(16, 1))})
    with pytest.raises(BaseModelError):
        swapping.swap(wide)
    assert torch.equal(output(model), before)
    real = guests.swap

    def stopped(model: Any, *arguments: Any) -> None:
        """Stopped between two layers."""
        monkeypatch.undo()
        real(model, *arguments)
        next(tensor for key, tensor in model.state_dict().items() if "lora_B" in key).zero_()
        raise KeyboardInterrupt

    monkeypatch.setattr(guests, "swap", stopped)
    with pytest.raises(KeyboardInterrupt):
        swapping.swap(adapter_of(model, 1), label="new")
    assert torch.equal(output(model), before)
    with swapping.running() as label:
        assert label == ""


def test_a_file_is_told_by_its_path_and_what_cannot_be_swapped_is_refused(tmp_path: Path) -> None:
    model = llama()
    first = adapter_of(model, 0)
    adaptzip.compress(first, tmp_path / "a.adz", start="none")
    swapping = Swapping(model, tmp_path / "a.adz", name="served")
    with swapping.running() as label:
        assert label == str(tmp_path / "a.adz")
    other = Swapping(model, first, name="served")
    other.swap(tmp_path / "a.adz")
    with pytest.raises(RefusedError, match="hot-swapping is of updates alone"):
        Swapping(llama(), Adapter(first.modules, {"base_model.model.lm_head.weight": torch.ones(32, 16)}))


def test_tasks_of_asyncio_run_and_swap() -> None:
    model = llama()
    adapters = [adapter_of(model, seed) for seed in range(3)]
    alone = outputs_alone(adapters)
    swapping = Swapping(model, adapters[0], name="default")
    seen: list[tuple[str, bool]] = []
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            async with swapping.running() as label:
                first = output(model)
                await asyncio.sleep(0)
                async with swapping.running() as again:
                    second = output(model)
                same = torch.equal(first, second) and torch.equal(first, alone[int(label or 0)])
                seen.append((label, same and again == label))

    async def all_of_it() -> None:
        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for number in range(12):
            await asyncio.to_thread(swapping.swap, adapters[number % 3], label=str(number % 3))
        stop.set()
        await asyncio.gather(*asking)

    asyncio.run(asyncio.wait_for(all_of_it(), WAIT))
    assert all(same for _, same in seen)
    assert len({label for label, _ in seen}) > 1


def test_what_would_keep_its_own_loop_waiting_is_refused() -> None:
    model = llama()
    adapters = [adapter_of(model, seed) for seed in range(2)]
    swapping = Swapping(model, adapters[0])

    async def all_of_it() -> None:
        inside, leave = asyncio.Event(), asyncio.Event()

        async def ask() -> None:
            async with swapping.running():
                inside.set()
                await leave.wait()

        asking = asyncio.create_task(ask())
        await inside.wait()
        with pytest.raises(UsageError, match="while a task of the same thread is within"):
            swapping.swap(adapters[1])
        swap = asyncio.create_task(asyncio.to_thread(swapping.swap, adapters[1], label="new"))
        while not swapping._gate._loners:
            await asyncio.sleep(0.001)
        with pytest.raises(UsageError, match="waits with it"), swapping.running():
            pass
        given_up = asyncio.create_task(ask())
        await asyncio.sleep(0.01)
        given_up.cancel()
        leave.set()
        await asking
        await swap
        async with swapping.running() as label:
            assert label == "new"

    asyncio.run(asyncio.wait_for(all_of_it(), WAIT))
    assert not swapping._gate._comers
    swapping.swap(adapters[0])


def test_what_a_block_began_goes_through_the_gate_when_the_block_is_over() -> None:
    """A task copies its parent's context, and a generator may be closed in another thread than it was begun in."""
    model = llama()
    swapping = Swapping(model, adapter_of(model, 0), name="default")
    gate = swapping._gate

    async def all_of_it() -> None:
        over = asyncio.Event()
        entered: list[str] = []

        async def later() -> None:
            await over.wait()
            async with swapping.running() as label:
                entered.append(label)

        async with swapping.running():
            child = asyncio.create_task(later())
            await asyncio.sleep(0)
        release = threading.Event()

        def alone() -> None:
            with gate.alone():
                release.wait(WAIT)

        swap = asyncio.create_task(asyncio.to_thread(alone))
        while not gate._alone:
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.sleep(0.02)
        assert entered == []
        release.set()
        await child
        await swap
        assert entered == [""]

    asyncio.run(asyncio.wait_for(all_of_it(), WAIT))


def test_a_block_may_end_in_another_thread() -> None:
    model = llama()
    adapters = [adapter_of(model, seed) for seed in range(2)]
    swapping = Swapping(model, adapters[0], name="default")
    block = swapping.running()
    block.__enter__()
    thread = threading.Thread(target=lambda: block.__exit__(None, None, None))
    thread.start()
    thread.join(WAIT)
    swapping.swap(adapters[1], label="new")
    with swapping.running() as label:
        assert label == "new"
