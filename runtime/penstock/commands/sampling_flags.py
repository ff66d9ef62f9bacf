"""Flags that say how to continue a text, for the commands that do so in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from penstock.flags import Parser
from penstock.sampling.params import SamplingParams

FLAGS = {
    "max_tokens": (int, "N", "most tokens to generate"),
    "temperature": (float, "X", "0 is greedy; default: the model's own"),
    "top_p": (float, "X", "sample from the likeliest tokens that together have this probability"),
    "top_k": (int, "N", "sample from this many likeliest tokens"),
    "min_p": (float, "X", "drop tokens less likely than this share of the likeliest"),
    "repetition_penalty": (float, "X", "above 1 discourages what was said before"),
    "seed": (int, "N", "the same seed gives the same text"),
}


def add_sampling_flags(parser: Parser) -> None:
    """Add one flag for each sampling parameter that a person sets by hand."""
    group = parser.add_argument_group("sampling")
    for name, (kind, metavar, text) in FLAGS.items():
        flag = "--" + name.replace("_", "-")
        parser.add_flag(group, flag, dest=name, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=text)
    parser.add_flag(group, "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")


def sampling_from(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """`defaults`, changed by the flags that were given; bounds are checked where every request is."""
    given: dict[str, Any] = {name: getattr(args, name) for name in FLAGS if hasattr(args, name)}
    return msgspec.structs.replace(defaults, **given, stop=tuple(args.stop or ()))
