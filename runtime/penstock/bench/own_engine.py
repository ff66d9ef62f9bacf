"""Penstock's own `LLM` behind the job loop of the benchmarks."""

from __future__ import annotations

from typing import Any

from penstock import LLM, SamplingParams
from penstock.bench.job_loop import Jobs
from penstock_kernels.cpu.ops import backend_name


def load(options: dict[str, Any]) -> Jobs:
    """`generate`: greedy, `num_outputs` tokens for each prompt of token ids; `kernels`: which ones it runs on.

    `options` are settings of `LLM`.
    """
    llm = LLM(**options)

    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return {"generate": generate, "kernels": backend_name}
