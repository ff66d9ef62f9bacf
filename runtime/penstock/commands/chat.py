"""Talk to a model in the terminal: in this process, or on a server with --url."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from penstock.commands.sampling_flags import FLAGS, add_sampling_flags, sampling_from
from penstock.config import EMBEDDED_MODEL
from penstock.errors import PenstockError
from penstock.flags import MODEL_HELP, Parser, add_config_flags, settings_from

SECTIONS = ("model", "cache", "scheduler", "compute")
MAX_TOKENS = 512
HELP = "/new starts over, /exit or Ctrl-D ends, Ctrl-C cuts an answer short"
SECONDS = 300  # between two events of a server

Message = dict[str, str]
Answer = Callable[[list[Message]], Iterator[str]]


def add_arguments(parser: Parser) -> None:
    """The model or the server, how to sample, how to load."""
    parser.add_argument("model", nargs="?", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--url", metavar="URL", help="talk to this server, such as http://127.0.0.1:8000, and load nothing"
    )
    parser.add_argument("--api-key", metavar="KEY", help="key for --url")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_sampling_flags(parser)
    add_config_flags(parser, SECTIONS)


def run(args: argparse.Namespace) -> int:
    """Talk until the end of input; returns the exit code."""
    with server_answer(args) if args.url else local_answer(args) as (name, answer):
        if sys.stdin.isatty():
            print(f"{name}. {HELP}")
        talk(answer, args.system)
    return 0


def talk(answer: Answer, system: str | None) -> None:
    """Read a line, show the answer, remember both."""
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while (line := read_line()) is not None:
        if line in ("/exit", "/quit"):
            return
        if line == "/new":
            messages = list(opening)
        elif line == "/help":
            print(HELP)
        elif line:
            messages.append({"role": "user", "content": line})
            messages.append({"role": "assistant", "content": show(answer(messages))})


def read_line() -> str | None:
    """The next thing that the person says; None at the end of input."""
    try:
        return input("\n> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def show(parts: Iterator[str]) -> str:
    """Print the parts as they come; Ctrl-C keeps what there is."""
    said: list[str] = []
    with contextlib.suppress(KeyboardInterrupt):
        for part in parts:
            print(part, end="", flush=True)
            said.append(part)
    print()
    return "".join(said)


@contextlib.contextmanager
def local_answer(args: argparse.Namespace) -> Iterator[tuple[str, Answer]]:
    """(model name, how to answer) with the engine in this process."""
    from penstock.commands.streaming import quiet_llm, stream_chat

    with quiet_llm(settings_from(args)) as llm:
        params = sampling_from(args, llm.default_params(max_tokens=MAX_TOKENS))

        def answer(messages: list[Message]) -> Iterator[str]:
            with contextlib.closing(stream_chat(llm, messages, params)) as deltas:
                for delta in deltas:
                    if delta.error is not None:
                        raise PenstockError(delta.error)
                    yield delta.text

        yield llm.name, answer


@contextlib.contextmanager
def server_answer(args: argparse.Namespace) -> Iterator[tuple[str, Answer]]:
    """(model name, how to answer) with a server's OpenAI API."""
    base = args.url.rstrip("/").removesuffix("/v1")
    with call(f"{base}/v1/models", args.api_key) as reply:
        name = json.load(reply)["data"][0]["id"]
    sampling = {flag: getattr(args, flag) for flag in FLAGS if hasattr(args, flag)}
    body = {"model": name, "stream": True, "max_tokens": MAX_TOKENS, "stop": args.stop} | sampling

    def answer(messages: list[Message]) -> Iterator[str]:
        with call(f"{base}/v1/chat/completions", args.api_key, body | {"messages": messages}) as reply:
            for line in reply:
                data = line.decode().strip().removeprefix("data: ")
                if data.startswith("{"):
                    yield text_of(json.loads(data))

    yield name, answer


def text_of(event: dict[str, Any]) -> str:
    """The text of one streamed event. Raises `PenstockError` for an error event."""
    if "error" in event:
        raise PenstockError(event["error"]["message"])
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


@contextlib.contextmanager
def call(url: str, key: str | None, body: dict[str, Any] | None = None) -> Iterator[Any]:
    """The open reply of a server. Raises `PenstockError` with the server's own sentence."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = (
        None
        if body is None
        else msgspec.json.encode({name: value for name, value in body.items() if value is not None})
    )
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SECONDS) as reply:
            yield reply
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            raise PenstockError(json.load(error)["error"]["message"]) from None
        raise PenstockError(f"{url} answered {error.code}") from None
    except OSError as error:
        raise PenstockError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from None
