"""vLLM's CPU wheel in bf16, with its own defaults apart from sizes. See penstock/bench/job_loop.py."""

from __future__ import annotations

import os
from typing import Any


def load(options: dict[str, Any]) -> dict[str, Any]:
    """`generate`: greedy continuations of token ids."""
    os.environ["OMP_NUM_THREADS"] = str(options["threads"])
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))[: options["threads"]]))
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=options["model"],
        dtype="bfloat16",
        skip_tokenizer_init=True,
        max_model_len=4096,
        max_num_seqs=128,
        enable_prefix_caching=False,
    )

    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [list(output.outputs[0].token_ids) for output in llm.generate(inputs, params, use_tqdm=False)]

    return {"generate": generate}
