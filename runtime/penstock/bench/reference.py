"""`transformers` as the judge: the same weights in float32, from any folder that the loader understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def reference_model(folder: Path) -> Any:
    """The folder's model in float32, quantised weights expanded exactly; needs the package `transformers`."""
    import torch
    import transformers

    from penstock.layers.weight_form import expand
    from penstock.loader.checkpoint import stream_weights

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
