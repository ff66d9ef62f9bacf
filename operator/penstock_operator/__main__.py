"""`penstock-operator`: the command line, and what the process is made of."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Sequence
from typing import Any

from penstock.version import VERSION
from penstock_operator.errors import OperatorError
from penstock_operator.settings import Settings

ABOUT = """Turns InferenceService objects into running services, in the cluster that the pod or the kubeconfig names."""
EXAMPLES = """
examples:
  penstock-operator run                                     in a pod: all namespaces
  penstock-operator run --namespaces team-a,team-b          these only, with rights on no others
  penstock-operator run --no-leader-election --master-key-file ./key --runtime-image penstock-runtime-cpu:dev
                                                            from a checkout, with the cluster of your kubeconfig

Only whoever holds the Lease penstock-operator in --operator-namespace writes; more replicas wait with warm caches.
/livez and /readyz answer on --health-port, /metrics on --metrics-port. The charts are penstock-crds and penstock.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code: 0, 1 for what went wrong, 2 for a wrong command line."""
    parser = build_parser()
    args = parser.parse_args(sys.argv[1:] if words is None else list(words))
    if args.command is None:
        parser.print_help()
        return 0
    try:
        settings = settings_from(vars(args))
        from penstock_operator.process import Process  # after the flags: it takes a second

        Process(settings).run()
    except OperatorError as error:
        print(f"penstock-operator: error: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """One flag for each setting, with its text and default."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="penstock-operator", description=ABOUT, epilog=EXAMPLES, formatter_class=words, allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"penstock-operator {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run", help="look after services", description=ABOUT, epilog=EXAMPLES, formatter_class=words, allow_abbrev=False
    )
    hints = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"].replace("%", "%%")
        if field.default not in ("", ()):
            shown = "yes" if field.default is True else field.default
            text += f" (default: {shown})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if hints[field.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {
                "type": words_of if hints[field.name] == tuple[str, ...] else hints[field.name],
                "metavar": "VALUE",
            }
        run.add_argument(flag, **options)
    return parser


def words_of(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def settings_from(given: dict[str, Any]) -> Settings:
    """The settings that the flags give. Raises `OperatorError` that names the flag."""
    names = [field.name for field in dataclasses.fields(Settings)]
    return Settings(**{name: given[name] for name in names if name in given})


if __name__ == "__main__":
    sys.exit(main())
