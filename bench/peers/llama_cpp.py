"""llama.cpp (its Python binding) on a GGUF file, one stream after the other. See penstock/bench/job_loop.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from llama_cpp import Llama, llama_get_logits


def load(options: dict[str, Any]) -> dict[str, Any]:
    """`generate`: greedy continuations of token ids, each prompt from an empty cache."""
    threads = options["threads"]
    llama = Llama(options["model"], n_ctx=4096, n_batch=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    def best_token() -> int:  # without the binding's sampler, which looks at every token once more
        return int(np.ctypeslib.as_array(llama_get_logits(llama.ctx), shape=(llama.n_vocab(),)).argmax())

    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        outputs = []
        for prompt in prompts:
            llama.reset()
            llama.eval(prompt)
            tokens = [best_token()]
            while len(tokens) < num_outputs:
                llama.eval(tokens[-1:])
                tokens.append(best_token())
            outputs.append(tokens)
        return outputs

    return {"generate": generate}
