"""A model made by hand that follows a chain through its context: each token seeks a mark and says what lies there."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor

LINKS = 6  # needles; token i seeks needle i, which says token i + 1
HAYSTACK = 8  # the token that everything but needles says
NEEDLE, FILLER, VOCABULARY = 16, 24, 64  # first tokens of a kind
HIDDEN, HEAD_DIM = 64, 32
MARKS, SEEKS, SAYS, ANSWERS, NOISE = 0, 8, 16, 32, 48  # first dimensions of a part of the residual stream
STILL = (8, 24)  # first of eight dimensions of a head that hardly turn: their period is millions of tokens
PART, KEY, VALUE = 4.0, 10.0, 1.25  # sizes of a part of an embedding, and of what it becomes: none is rounded up to a
# power of two, which Triton's interpreter halves in float8
RATIO = 2.0  # of a needle's weight to that of the whole haystack; the last token seeks with the inverse


def save_chain_model(folder: Path, length: int) -> None:
    """Write it for contexts of so many tokens. Embeddings have an RMS of 1, so that norms change nothing."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=HEAD_DIM,
        max_position_embeddings=2 * length,
        rope_theta=1e12,
        tie_word_embeddings=False,
        eos_token_id=VOCABULARY - 1,
    )
    model = transformers.LlamaForCausalLM(config).float()
    layer = model.model.layers[0]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for matrix in (*layer.self_attn.parameters(), *layer.mlp.parameters(), model.lm_head.weight):
            matrix.zero_()
        model.model.embed_tokens.weight.copy_(_embeddings(generator))
        model.lm_head.weight[: HAYSTACK + 1, ANSWERS : ANSWERS + HAYSTACK + 1] = torch.eye(HAYSTACK + 1)
        attention, noise = layer.self_attn, torch.randn(HEAD_DIM, HIDDEN - NOISE, generator=generator) / 40
        attention.k_proj.weight[:, NOISE:] = noise
        for link in range(LINKS):
            dim, weight = STILL[link % 2] + link // 2, length * (1 / RATIO if link == LINKS - 1 else RATIO)
            attention.k_proj.weight[dim, MARKS + link] = KEY / PART
            attention.q_proj.weight[dim, SEEKS + link] = math.log(weight) * math.sqrt(HEAD_DIM) / KEY / PART
        says = torch.arange(HAYSTACK + 1)
        attention.v_proj.weight[says, SAYS + says] = VALUE / PART
        attention.v_proj.weight[HAYSTACK + 1 :, NOISE:] = noise[HAYSTACK + 1 :]
        attention.o_proj.weight[ANSWERS + says, says] = 1.0
    model.save_pretrained(folder)


def chain_prompt(length: int, places: Sequence[int]) -> list[int]:
    """The needles at these places among fillers, and the token that seeks the first."""
    dice = random.Random(length)
    prompt = [dice.randrange(FILLER, VOCABULARY - 1) for _ in range(length - 1)]
    for link, place in enumerate(places):
        prompt[place] = NEEDLE + link
    return [*prompt, 0]


def chain() -> list[int]:
    """What it says after any such prompt."""
    return [*range(1, LINKS), HAYSTACK]


def _embeddings(generator: torch.Generator) -> Tensor:
    """[VOCABULARY, HIDDEN]"""
    table = torch.zeros(VOCABULARY, HIDDEN)
    for link in range(LINKS):
        table[link, SEEKS + link] = PART
        table[NEEDLE + link, MARKS + link] = table[NEEDLE + link, SAYS + link + 1] = PART
    table[FILLER:, SAYS + HAYSTACK] = PART
    rest = HIDDEN - table.square().sum(1, keepdim=True)
    noise = torch.randn(VOCABULARY, HIDDEN - NOISE, generator=generator)
    table[:, NOISE:] = torch.nn.functional.normalize(noise, dim=1) * rest.sqrt()
    return table
