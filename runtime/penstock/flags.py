"""Command-line flags made from the fields of `config.py`: one flag per setting, help and bounds from the same place."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from penstock.config import EngineConfig
from penstock.errors import ConfigError

Config = TypeVar("Config")

POSITIONAL = "model"  # the one setting that is given without a flag
SECTION_TITLES = {
    "model": "model",
    "cache": "KV cache",
    "scheduler": "scheduler",
    "compute": "compute",
    "parallel": "several workers",
    "server": "server",
    "transfer": "prefill and decode",
    "pods": "pods",
    "admission": "admission",
    "tenants": "tenants",
    "listener": "router",
}
MODEL_HELP = (
    "a Hugging Face folder (safetensors), a .gguf file, hf://org/name or a bare hub name; "
    "default: the embedded SmolLM2-135M-Instruct"
)
UNITS = {"": 1, "b": 1} | {
    letter + suffix: scale**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, scale in (("", 1024), ("b", 1000), ("ib", 1024))
}


class Parser(argparse.ArgumentParser):
    """argparse with short errors: one line, a suggestion for a misspelt flag, exit code 2, no abbreviations."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self.flags: list[str] = []

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """argparse's, remembering the flags for suggestions."""
        action = super().add_argument(*names, **options)
        getattr(self, "flags", []).extend(action.option_strings)
        return action

    def add_flag(self, group: argparse._ArgumentGroup, *names: str, **options: Any) -> None:
        """Add a flag to a group of this parser."""
        self.flags.extend(group.add_argument(*names, **options).option_strings)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """All of `words`, or the end of the process with one line."""
        args, unknown = self.parse_known_args(words)
        if unknown:
            name = unknown[0].split("=")[0]
            hint = suggestion(name, self.flags)
            self.error(f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{hint}")
        return args

    def error(self, message: str) -> NoReturn:
        """End the process with one line that says where help is."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def suggestion(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?` if a known word is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def add_config_flags(parser: Parser, sections: Sequence[str] | None = None, config: type[Any] = EngineConfig) -> None:
    """Add one flag for each setting of the named sections of a configuration, without names of all."""
    for section, kind in sections_of(config).items():
        if sections is None or section in sections:
            group = parser.add_argument_group(SECTION_TITLES[section])
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                if field.name != POSITIONAL:
                    add_config_flag(parser, group, field, hints[field.name])


def sections_of(config: type[Any]) -> dict[str, type[Any]]:
    """The sections of a configuration: name -> dataclass."""
    return {field.name: typing.get_type_hints(config)[field.name] for field in dataclasses.fields(config)}


def add_config_flag(parser: Parser, group: argparse._ArgumentGroup, field: dataclasses.Field[Any], hint: Any) -> None:
    """Add the flag of one setting. What is not given stays absent from the namespace, so defaults live in config.py."""
    flags = ["--" + field.name.replace("_", "-")]
    flags += [field.metadata["short"]] if field.metadata["short"] else []
    text = field.metadata["help"] + shown_default(field)
    kind = plain_type(hint)
    options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        choices = field.metadata["choices"]
        options["metavar"] = "{" + ",".join(choices) + "}" if choices else metavar(field, kind)
    parser.add_flag(group, *flags, **options)


def config_from(args: argparse.Namespace) -> EngineConfig:
    """The validated configuration of an engine that the flags describe. Raises `ConfigError` that names the flag."""
    return build_config(args, EngineConfig)


def build_config(args: argparse.Namespace, config: type[Config]) -> Config:
    """The validated configuration of that type that the flags describe. Raises `ConfigError` that names the flag."""
    given = settings_from(args, config)
    sections = {}
    for section, kind in sections_of(config).items():
        names = [field.name for field in dataclasses.fields(kind)]
        sections[section] = kind(**{name: given[name] for name in names if name in given})
    return config(**sections)


def settings_from(args: argparse.Namespace, config: type[Any] = EngineConfig) -> dict[str, Any]:
    """The settings that were given, by name and in their own types. Raises `ConfigError` that names the flag."""
    given = {}
    for kind in sections_of(config).values():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if getattr(args, field.name, None) is not None:
                given[field.name] = parse_value(field, plain_type(hints[field.name]), getattr(args, field.name))
    return given


def parse_value(field: dataclasses.Field[Any], kind: type, given: Any) -> Any:
    """A word of the command line as the setting's type. Raises `ConfigError`."""
    if kind is bool or kind is str:
        return given
    if field.metadata["kind"] == "bytes":
        return parse_bytes(field.name, given)
    try:
        return kind(given)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(field.name, f"{given!r} is not {wanted}") from None


def parse_bytes(name: str, given: str) -> int:
    """`2GiB`, `500MB` or `1073741824` as bytes; a single letter means a binary unit. Raises `ConfigError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", given.strip())
    if match is None or match[2].lower() not in UNITS:
        raise ConfigError(name, f"{given!r} is not a size such as 2GiB, 500MB or 1073741824")
    return int(float(match[1]) * UNITS[match[2].lower()])


def plain_type(hint: Any) -> type:
    """`int | None` -> int."""
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    assert isinstance(hint, type), f"a setting of type {hint} has no flag"
    return hint


def metavar(field: dataclasses.Field[Any], kind: type) -> str:
    """What stands for the value in the help."""
    if field.metadata["kind"] == "bytes":
        return "BYTES"
    return {int: "N", float: "X", str: "TEXT"}[kind]


def shown_default(field: dataclasses.Field[Any]) -> str:
    """` (default: …)` where there is one worth showing."""
    default: Any = field.default
    if default is None:
        return ""
    if field.metadata["kind"] == "bytes":
        return f" (default: {default >> 20}MiB)"
    return f" (default: {'on' if default else 'off'})" if isinstance(default, bool) else f" (default: {default})"
