"""transformers on the CPU in bf16, and in fp32 as the judge of everybody's tokens. See penstock/bench/job_loop.py."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM


def load(options: dict[str, Any]) -> dict[str, Any]:
    """`generate` for prompts of one length; `regrets`: how much better the best token was than the chosen one."""
    torch.set_num_threads(options["threads"])
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.bfloat16)
    judge = None

    @torch.inference_mode()
    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        outputs = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_outputs,
            min_new_tokens=num_outputs,
            do_sample=False,
            pad_token_id=0,
        )
        return outputs[:, ids.shape[1] :].tolist()

    @torch.inference_mode()
    def regrets(sequences: list[list[int]], num_prompt: int) -> list[list[float]]:
        nonlocal judge
        if judge is None:
            judge = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
        ids = torch.tensor(sequences)
        logits = judge(ids).logits[:, num_prompt - 1 : -1].log_softmax(-1)
        chosen = logits.gather(-1, ids[:, num_prompt:, None])[..., 0]
        return (logits.amax(-1) - chosen).tolist()

    return {"generate": generate, "regrets": regrets}
