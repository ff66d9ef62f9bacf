"""llama.cpp (its Python binding) on a GGUF file, one stream after the other. See penstock/bench/job_loop.py."""

from __future__ import annotations

from typing import Any

from llama_cpp import Llama


def load(options: dict[str, Any]) -> dict[str, Any]:
    """`generate`: greedy continuations of token ids, each prompt from an empty cache."""
    threads = options["threads"]
    llama = Llama(options["model"], n_ctx=4096, n_batch=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        outputs = []
        for prompt in prompts:
            llama.reset()
            llama.eval(prompt)
            tokens = [llama.sample(temp=0.0)]
            while len(tokens) < num_outputs:
                llama.eval(tokens[-1:])
                tokens.append(llama.sample(temp=0.0))
            outputs.append(tokens)
        return outputs

    return {"generate": generate}
