"""`transformers` as the judge: the same weights in float32, from any folder that the loader understands."""

from __future__ import annotations

import torch
import transformers


@torch.inference_mode()
def reference_logits(model: transformers.PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """Float32 [num_tokens, vocab_size]."""
    return model(torch.tensor([token_ids])).logits[0].float()


def reference_greedy(model: transformers.PreTrainedModel, token_ids: list[int], count: int) -> list[int]:
    """`count` greedy tokens, each from a full pass over all tokens before it; end-of-text tokens do not stop it."""
    known = list(token_ids)
    for _ in range(count):
        known.append(int(reference_logits(model, known)[-1].argmax()))
    return known[len(token_ids) :]
