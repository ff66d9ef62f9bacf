"""Continue one prompt and end; the engine runs in this process, and the text appears as it is made."""

from __future__ import annotations

import argparse
import json
import sys

from penstock.commands.sampling_flags import add_sampling_flags, sampling_from
from penstock.config import EMBEDDED_MODEL
from penstock.errors import PenstockError
from penstock.flags import MODEL_HELP, Parser, add_config_flags, settings_from

SECTIONS = ("model", "cache", "scheduler", "compute")


def add_arguments(parser: Parser) -> None:
    """The prompt, the model, how to sample, how to load."""
    parser.epilog = 'example: penstock generate "The three laws of robotics are" --max-tokens 64 --temperature 0'
    parser.add_argument("prompt", metavar="PROMPT", help="text to continue; - reads it from standard input")
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object with text, reason and usage instead")
    parser.add_argument("--no-stream", action="store_true", help="print the text when it is complete")
    add_sampling_flags(parser)
    add_config_flags(parser, SECTIONS)


def run(args: argparse.Namespace) -> int:
    """Print the continuation; returns the exit code."""
    from penstock.commands.streaming import quiet_llm

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    with quiet_llm(settings_from(args)) as llm:
        params = sampling_from(args, llm.default_params(max_tokens=64))
        parts, last = [], None
        for last in llm.stream(prompt, params):
            parts.append(last.text)
            if not args.json and not args.no_stream:
                print(last.text, end="", flush=True)
        if last is None or last.error is not None:
            raise PenstockError(last.error if last and last.error else "the engine gave no answer")
    if args.json:
        usage = {"prompt_tokens": last.num_prompt, "completion_tokens": last.num_outputs}
        print(
            json.dumps({"model": llm.name, "text": "".join(parts), "finish_reason": last.finish_reason, "usage": usage})
        )
    else:
        print("".join(parts) if args.no_stream else "")
    return 0
