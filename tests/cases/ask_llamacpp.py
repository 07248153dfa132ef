"""Asks llama.cpp what comes after some tokens: `python -m tests.cases.ask_llamacpp TOKENS BASE [ADAPTER]`.

A process of its own, as llama.cpp ends the one that it fails in. Prints the log-probabilities of the likeliest tokens.
"""

from __future__ import annotations

import json
import os
import sys

import xllamacpp


def _main(tokens: str, base: str, *adapter: str) -> None:
    given = xllamacpp.CommonParams()
    given.model.path = base
    given.n_ctx, given.n_parallel, given.warmup = 64, 1, False
    given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    given.cpuparams.n_threads = 1
    given.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapter]
    asked = {"prompt": json.loads(tokens), "n_predict": 1, "temperature": 0, "n_probs": 20, "cache_prompt": False}
    answer = xllamacpp.Server(given).handle_completions(asked)
    told = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    print(json.dumps({token["id"]: token["logprob"] for token in told}), flush=True)
    os._exit(0)  # The server's threads never end.


if __name__ == "__main__":
    _main(*sys.argv[1:])
