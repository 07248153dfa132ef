"""A whole engine on a store: `python -m benchmarks.serving_vllm [--port 8123] [--write]`, where vLLM is installed.

A tiny random Llama is served by vLLM's own server, which finds the plug-in by its entry point; adapters come from a
store, of which two stand on a shared basis. Greedy tokens are held against those of transformers with PEFT on the
folder that `export --as peft` writes of the same file. Nothing of it needs a GPU: vLLM's build for CPUs serves.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import adaptzip
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.files.trees import Tree, tree_at
from benchmarks import page
from benchmarks.commands import machine

PROMPT = [1, 30, 45, 77, 200, 11]
TOKENS = 8
RANK = 4
_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo",
}  # fmt: skip
_ENGINE = (
    "--enable-lora --max-lora-rank 8 --max-loras 2 --skip-tokenizer-init --enforce-eager --dtype float32 "
    "--max-model-len 64 --max-num-seqs 4 --max-num-batched-tokens 64"
)
_PATIENCE = 600
"""Seconds that the engine has to come up."""


@dataclass(frozen=True)
class Answer:
    """What the server said: its status, the tokens it generated or [], and seconds it took."""

    status: int
    tokens: list[int]
    seconds: float


def model_in(folder: Path) -> Any:
    """A tiny random Llama, saved."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    made: Any = LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=128, **sizes, **heads))
    made.float().eval().save_pretrained(folder)
    return made


def adapter_of(model: Any, seed: int) -> adaptzip.Adapter:
    """A random adapter that changes what is generated."""
    generator = torch.Generator().manual_seed(9_000_000 + seed)
    modules = {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "o_proj", "down_proj")):
            A = torch.randn(RANK, module.in_features, generator=generator) * 0.3
            modules[name] = adaptzip.LoraFactors(A, torch.randn(module.out_features, RANK, generator=generator) * 0.3)
    return adaptzip.Adapter(modules)


def expected(base: Path, adapter: adaptzip.Adapter | adaptzip.Compressed, folder: Path, basis: Path) -> list[int]:
    """The greedy tokens of transformers with PEFT, on what is exported for it."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    adaptzip.export(adapter, folder, as_="peft", force=True, basis=basis, base_name="tiny")
    model: Any = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), str(folder)).eval()
    with torch.no_grad():
        ids = torch.tensor([PROMPT])
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return [int(token) for token in found[0, len(PROMPT) :]]


@contextmanager
def server(base: Path, store: Path, cache: Path, port: int, log: Path) -> Iterator[float]:
    """vLLM's server on the store; gives the seconds it took to come up."""
    settings = {**os.environ, **_ENVIRONMENT, "ADAPTZIP_STORE": str(store), "ADAPTZIP_STORE_CACHE": str(cache)}
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base), *_ENGINE.split()]
    begun = time.monotonic()
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [*words, "--host", "127.0.0.1", "--port", str(port)], env=settings, stdout=handle, stderr=handle
        )
        try:
            while time.monotonic() - begun < _PATIENCE and process.poll() is None and not healthy(port):
                time.sleep(1)
            if not healthy(port):
                raise SystemExit(f"the engine did not come up:\n{log.read_text(errors='replace')[-4000:]}")
            yield time.monotonic() - begun
        finally:
            process.terminate()
            process.wait(60)


def healthy(port: int) -> bool:
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(port: int, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and content of an answer."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ask(port: int, model: str) -> Answer:
    """Ask a model by its name to go on with the prompt."""
    more = {"max_tokens": TOKENS, "temperature": 0, "return_token_ids": True, "detokenize": False, "ignore_eos": True}
    begun = time.monotonic()
    status, content = post(port, "/v1/completions", {"model": model, "prompt": PROMPT, **more})
    seconds = time.monotonic() - begun
    tokens = json.loads(content)["choices"][0]["token_ids"] if status == 200 else []
    return Answer(status, tokens, seconds)


def filled(store: Path, model: Any, folder: Path) -> tuple[Tree, dict[str, adaptzip.Compressed], Path]:
    """A store of three adapters, two of which stand on one basis; what they hold, and the basis."""
    tree, basis = tree_at(store), folder / "team.basis"
    members = [adapter_of(model, seed) for seed in (1, 2)]
    write_basis(build_basis(members), basis)
    made = {"plain": adaptzip.compress(adapter_of(model, 3), start="none")}
    for number, member in enumerate(members):
        made[f"team/{number}"] = adaptzip.compress(member, to="lora-sb", basis=basis)
    for name, compressed in made.items():
        adaptzip.add_to_store(compressed, store, name, basis=basis if compressed.basis is not None else None)
    return tree, made, basis


def measure(folder: Path, port: int) -> tuple[list[tuple[str, str, bool]], float]:
    """What was asked, what came, and whether it is right; and seconds until the engine was up."""
    base, store = folder / "tiny", folder / "store"
    model = model_in(base)
    tree, made, basis = filled(store, model, folder)
    wanted = {name: expected(base, one, folder / "peft", basis) for name, one in made.items()}
    rows: list[tuple[str, str, bool]] = []
    with server(base, store, folder / "cache", port, folder / "log") as up:
        bare = ask(port, str(base)).tokens
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            at_once = list(pool.map(lambda _: ask(port, "plain"), range(20)))
        right = all(one.tokens == wanted["plain"] != bare for one in at_once)
        rows.append(("20 requests at once for one adapter that is not loaded", f"{len(at_once)} answers", right))
        for name in ("team/0", "team/1"):
            first, again = ask(port, name), ask(port, name)
            told = f"{first.seconds:.2f} s, then {again.seconds:.2f} s"
            right = first.tokens == again.tokens == wanted[name] != bare
            rows.append((f"`{name}`, which stands on the shared basis", told, right))
        tree.write("broken.adz", b"not an adapter")
        for name in ("nobody", "../store/plain", "broken"):
            status = ask(port, name).status
            rows.append((f"`{name}`", f"status {status}", status == 404))
        adaptzip.add_to_store(adapter_of(model, 4), store, "plain", force=True, start="none")
        fresh = adaptzip.open(store / "plain.adz")
        anew = expected(base, fresh, folder / "peft", basis)
        kept = ask(port, "plain").tokens
        rows.append(("the file is replaced: the engine keeps what it loaded", "", kept == wanted["plain"] != anew))
        post(port, "/v1/unload_lora_adapter", {"lora_name": "plain"})
        rows.append(("after `/v1/unload_lora_adapter` it loads the new one", "", ask(port, "plain").tokens == anew))
    return rows, up


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8123, help="on this machine, for the server (default: 8123)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as folder:
        rows, up = measure(Path(folder), options.port)
    (package,) = (name for name in ("vllm", "vllm-cpu") if _installed(name))
    text = f"{machine()} {package} {version(package)}, up after {up:.0f} s; all tokens greedy.\n\n"
    text += "| request | | as expected |\n|---|---|---|\n"
    text += "".join(f"| {asked} | {came} | {'yes' if right else 'NO'} |\n" for asked, came, right in rows)
    print(text)
    if options.write:
        page.put("serving_vllm", text)
    return 0 if all(right for _, _, right in rows) else 1


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
