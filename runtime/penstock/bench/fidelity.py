"""`penstock bench fidelity`: are the answers those of the model? Every greedy token against `transformers` in float32.

The text that we generated is passed once through the reference (teacher forcing). A token is ours alone if the
reference had a better one; its gap is how much better, in nats.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.bench.peer_models import bf16_folder
from penstock.bench.reference import reference_model
from penstock.bench.report import Report, Row
from penstock.config import EMBEDDED_MODEL
from penstock.loader.sources import resolve

TOPICS = "rivers tea glass bees bread tides maps clocks salt wool iron chess kites ferns coal ink owls snow rice paper"
QUESTIONS = (
    "Write three sentences about {}.",
    "Why do people like {}?",
    "List five facts about {}.",
    "Explain {} to a child.",
    "Write a short poem about {}.",
    "What is the history of {}?",
    "Tell me a story in which {} matter.",
    "Compare {} with stones.",
    "How would you describe {} to a blind person?",
    "Translate into French: I have always been fond of {}.",
)
TOKENS_AT_ONCE = 4096  # of the reference's pass, so that its logits stay under a gigabyte


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How the tokens that an engine chose look to the reference."""

    worst_gap: float  # nats by which the reference liked another token better, at most
    other_choices: float  # share of tokens that were not the reference's best
    mean_log_likelihood: float  # nats per token
    best_log_likelihood: float  # nats per token, had the reference's best token been taken each time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="model to check (default: the embedded one)")
    parser.add_argument("--prompts", type=int, default=200, help="number of prompts (default and most: 200)")
    parser.add_argument("--tokens", type=int, default=64, help="greedy tokens per prompt (default: 64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    folder, plain = resolve(options.model).folder, bf16_folder(options.model)
    forms: list[tuple[str, Path, dict[str, Any]]] = [
        ("float32", folder, {"dtype": "float32"}),
        ("as shipped, 4 bits", folder, {}),
        ("bf16", plain, {}),
        ("--quantization int8", plain, {"quantization": "int8"}),
        ("--quantization int4", plain, {"quantization": "int4"}),
    ]
    references = {path: reference_model(path) for path in (folder, plain)}
    rows = []
    for name, path, settings in forms:
        seen = measure(path, references[path], build_prompts()[: options.prompts], options.tokens, **settings)
        rows += [
            Row(name=f"{name}: worst gap", value=round(seen.worst_gap, 5), unit="nats"),
            Row(name=f"{name}: other choices", value=round(seen.other_choices, 5), unit="share"),
            Row(
                name=f"{name}: log-likelihood",
                value=round(seen.mean_log_likelihood, 4),
                unit="nats/token",
                peer=round(seen.best_log_likelihood, 4),
            ),
        ]
    Report(benchmark="fidelity", command="penstock bench fidelity", rows=rows).publish(options.json)
    return 0


def build_prompts() -> list[str]:
    """200 different questions."""
    return [question.format(topic) for question in QUESTIONS for topic in TOPICS.split()]


def measure(folder: Path, reference: Any, prompts: Sequence[str], num_tokens: int, **settings: Any) -> Fidelity:
    """Generate greedily with `LLM(model=folder, **settings)`, judge every token by one pass of `reference`."""
    from penstock import LLM, SamplingParams

    with LLM(model=str(folder), max_model_len=1024, **settings) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=num_tokens)
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        outputs = llm.chat(chats, params, use_tqdm=False)
    pairs = [(list(output.prompt_token_ids), list(output.outputs[0].token_ids)) for output in outputs]
    return judge(reference, pairs)


def judge(reference: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> Fidelity:
    """Compare chosen tokens with the reference's distribution. `pairs` are (prompt ids, chosen ids)."""
    import torch

    gaps, chosen, best = [], [], []
    for batch in batches(pairs):
        longest = max(len(prompt) + len(output) for prompt, output in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, (prompt, output) in enumerate(batch):
            ids[row, : len(prompt) + len(output)] = torch.tensor(prompt + output)
        with torch.inference_mode():  # padding is behind the text, which a causal model cannot see
            logits = reference(ids).logits
            for row, (prompt, output) in enumerate(batch):
                scores = logits[row, len(prompt) - 1 : len(prompt) + len(output) - 1].float().log_softmax(-1)
                mine, top = scores.gather(1, torch.tensor(output)[:, None])[:, 0], scores.amax(dim=1)
                gaps += (top - mine).tolist()
                chosen += mine.tolist()
                best += top.tolist()
    return Fidelity(
        worst_gap=max(gaps),
        other_choices=sum(gap > 0 for gap in gaps) / len(gaps),
        mean_log_likelihood=sum(chosen) / len(chosen),
        best_log_likelihood=sum(best) / len(best),
    )


def batches(pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[tuple[list[int], list[int]]]]:
    """Pairs of similar length together, at most `TOKENS_AT_ONCE` tokens each."""
    found: list[list[tuple[list[int], list[int]]]] = []
    for pair in sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1])):
        length = len(pair[0]) + len(pair[1])
        if not found or (len(found[-1]) + 1) * length > TOKENS_AT_ONCE:
            found.append([])
        found[-1].append(pair)
    return found
