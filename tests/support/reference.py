"""`transformers` as the judge: the same weights in float32, from any folder that the loader understands."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from penstock.layers.weight_form import expand
from penstock.loader.checkpoint import stream_weights


def reference_model(folder: Path) -> transformers.PreTrainedModel:
    """The folder's model in float32, quantised weights expanded exactly."""
    config = transformers.AutoConfig.from_pretrained(folder)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config)
    weights = {name: expand(weight, torch.float32).clone() for name, weight in stream_weights(folder)}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are not in the checkpoint
    return model.eval()


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
