"""transformers in bf16, and as the judge of everybody's tokens. See penstock/bench/job_loop.py."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def load(options: dict[str, Any]) -> dict[str, Any]:
    """`generate` for prompts of one length; `regrets`: how much better the best token was than the chosen one, by the
    same model in the type `judge`. On `device`; `threads` are a CPU's."""
    device = torch.device(options["device"])
    if "threads" in options:
        torch.set_num_threads(options["threads"])

    @cache
    def model_in(dtype: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(options["model"], dtype=getattr(torch, dtype)).to(device)

    model = model_in("bfloat16")

    @torch.inference_mode()
    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        ids = torch.tensor(prompts, device=device)
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
        found = []
        for sequence in sequences:
            ids = torch.tensor([sequence], device=device)
            logits = model_in(options["judge"])(ids).logits[:, num_prompt - 1 : -1].float().log_softmax(-1)
            chosen = logits.gather(-1, ids[:, num_prompt:, None])[..., 0]
            found += (logits.amax(-1) - chosen).tolist()
        return found

    return {"generate": generate, "regrets": regrets}
