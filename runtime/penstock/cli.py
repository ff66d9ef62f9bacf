"""`penstock`: finds the command and hands over. Each command imports what it needs only when it is chosen."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import penstock
from penstock.errors import PenstockError
from penstock.flags import Parser, suggestion

COMMANDS = {
    "serve": "serve a model over the OpenAI API",
    "route": "put one address in front of the pods of a service",
    "demo": "a router, a prefill and two decode pods on this machine, to try out and to break",
    "top": "watch the queues, KV caches and transfers of a running service",
    "chat": "talk to a model in the terminal",
    "generate": "continue one prompt and end",
    "models": "list what can be served from here",
    "fetch": "fetch a model into the cache and end",
    "k8s": "how services in a Kubernetes cluster are doing, and why",
    "bench": "measure this machine against its limits, and the answers against transformers",
}
BENCHMARKS = {
    "offline": "throughput of the engine in one process",
    "serve": "latency and throughput over HTTP",
    "router": "what the router adds to latency, and where it saturates",
    "pd": "prefill and decode in two pods against two pods that do both, on the same cores",
    "startup": "seconds until ready",
    "scheduler": "host cost of one step",
    "kernels": "every GPU kernel against the device's limits, FlexAttention and FlashAttention 3",
    "fidelity": "every greedy token against transformers in float32",
}
EXAMPLES = """
examples:
  penstock serve                              serve the embedded model on http://127.0.0.1:8000
  penstock serve ./Qwen3-0.6B --port 9000     a Hugging Face folder
  penstock serve model.gguf                   a GGUF file
  penstock serve hf://Qwen/Qwen3-0.6B         from the Hugging Face hub
  penstock chat                               talk to the embedded model, no server needed
  penstock generate "Once upon a time" --max-tokens 64

`penstock COMMAND --help` shows the flags of a command.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for what went wrong, 2 for a wrong command line."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview("penstock", "Serve large language models.", COMMANDS, EXAMPLES))
            return 0
        if words[0] in ("-V", "--version", "version"):
            print(f"penstock {penstock.__version__}")
            return 0
        if words[0] == "bench":
            return run_module("penstock bench", BENCHMARKS, "penstock.bench", words[1:])
        return run_module("penstock", COMMANDS, "penstock.commands", words)
    except PenstockError as error:
        print(f"penstock: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `penstock models | head`
        sys.stderr.close()
        return 0


def run_module(prog: str, known: dict[str, str], package: str, words: list[str]) -> int:
    """Run the module of `package` that the first word names with the other words as its arguments."""
    if not words or words[0] in ("-h", "--help"):
        print(overview(prog, "Measure this machine, and compare with its limits.", known, ""))
        return 0
    name = words[0]
    if name not in known:
        kind = "flag" if name.startswith("-") else "command"
        hint = suggestion(name, list(known)) or f"; there are {', '.join(known)}"
        print(f"{prog}: error: unknown {kind} {name}{hint} (see {prog} --help)", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{package}.{name}")
    parser = Parser(prog=f"{prog} {name}", description=module.__doc__)
    module.add_arguments(parser)
    code: int = module.run(parser.parse(words[1:]))
    return code


def overview(prog: str, summary: str, known: dict[str, str], more: str) -> str:
    """The help that lists commands."""
    width = max(map(len, known))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in known.items())
    return f"usage: {prog} COMMAND [flags]\n\n{summary}\n\ncommands:\n{lines}\n{more}".rstrip()
