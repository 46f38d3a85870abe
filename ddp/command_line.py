"""Defaults, then a TOML file, then the command line: from `sys.argv` to a `Config`."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from jsonargparse import ArgumentParser, set_parsing_settings

from ddp.config import Config, ConfigError, to_dict

PROGRAM = "python -m ddp.train"


@dataclass(frozen=True)
class Invocation:
    """What the command line asks for."""

    config: Config
    """The fully resolved configuration."""
    resume: str = ""
    """A checkpoint's path, or `auto` for the newest valid one of the run directory; empty: a new run."""
    print_config: bool = False
    """Whether to print the configuration as TOML and end."""


def parse(arguments: Sequence[str]) -> Invocation:
    """Read the command line, and the TOML file it names.

    Raises:
        ConfigError: for an unknown field, a value of the wrong type or outside its range, or a
            missing or malformed file; one line, naming the value and the fix.
        SystemExit: after `--help` was printed.
    """
    parser = _parser()
    _check_config_files(arguments)
    try:
        options = parser.parse_args(list(arguments))
        sections = {section.name: options[section.name] for section in dataclasses.fields(Config)}
        config = parser.instantiate(options)
        values = {name: config[name] for name in sections}
    except argparse.ArgumentError as error:
        raise ConfigError(_one_line(str(error), _field_names())) from None
    return Invocation(Config(**values), options["resume"] or "", options["print_config"])


def dump_toml(config: Config) -> str:
    """The configuration as TOML that `--config` reads back to the same configuration."""
    return tomli_w.dumps(to_dict(config))


def _parser() -> ArgumentParser:
    # Units and defaults are documented where the fields are: the docstring under each is its help text.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=PROGRAM,
        usage=f"mpirun -n P {PROGRAM} [--config FILE.toml] [--SECTION.FIELD VALUE ...]",
        description="Train a network by synchronous data-parallel SGD. Without arguments: the digit recogniser.",
        exit_on_error=False,
        parser_mode="toml",
        print_config=None,
    )
    parser.add_argument("--config", action="config", help="TOML file with any of the fields below, by section.")
    parser.add_argument("--print-config", action="store_true", help="Print the resolved configuration, as TOML.")
    parser.add_argument("--resume", metavar="auto|PATH", help="Continue from the run's newest checkpoint, or PATH.")
    parser.add_class_arguments(Config, None)
    _tidy_help(parser)
    return parser


def _tidy_help(parser: ArgumentParser) -> None:
    """Head each group with its section's name, and hide that a section could be a file of its own."""
    for name, group in (parser.groups or {}).items():
        title = str(group.title)
        group.title = "top level" if name == "Config" else f"[{name}] {title[0].lower()}{title[1:]}"
    sections = {section.name for section in dataclasses.fields(Config) if section.type != "int"}
    for action in parser._actions:
        if action.dest in sections:
            action.help = argparse.SUPPRESS


def _check_config_files(arguments: Sequence[str]) -> None:
    """A path that is missing would otherwise be parsed as TOML text, with a puzzling error."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != "--config":
            continue
        path = value if equals else next(iter(arguments[position + 1 :]), "")
        if not Path(path).is_file():
            raise ConfigError(f"--config {path}: no such file; give the path of a TOML file, such as configs/mlp.toml")


def _field_names() -> list[str]:
    def names(fields: dict[str, Any], prefix: str = "") -> list[str]:
        nested = [names(v, f"{k}.") if isinstance(v, dict) else [prefix + k] for k, v in fields.items()]
        return [name for group in nested for name in group]

    return names(to_dict(Config()))


def _one_line(message: str, known: list[str]) -> str:
    """Rewrite the library's message to name field, value and fix on one line."""
    message = " ".join(message.split())
    if match := re.fullmatch(r'Parser key "(?P<name>[\w.]+)": (?P<what>.*?)\.? Got value: (?P<value>.*)', message):
        what = re.sub(r"<class '(\w+)'>", r"\1", match["what"]).replace("typing.Literal", "one of ")
        what = what[0].lower() + what[1:]
        return f"{match['name']} = {match['value']}: {what}; see --help"
    if match := re.fullmatch(r'Parser key "config": (?P<what>.*)', message):
        return f"--config: not valid TOML: {match['what']}"
    if match := re.fullmatch(r"Group '(?P<group>\w+)' does not accept option '(?P<name>[\w.-]+)'", message):
        return _unknown(f"{match['group']}.{match['name']}", known)
    if match := re.fullmatch(r"unrecognized arguments: (?P<rest>.*)", message, re.IGNORECASE):
        return _unknown(match["rest"].split()[0], known)
    return message


def _unknown(name: str, known: list[str]) -> str:
    bare = name.lstrip("-").partition("=")[0]
    close = difflib.get_close_matches(bare, known, n=1)
    return f"unknown field {name}: " + (f"did you mean {close[0]}?" if close else "see --help for the fields")
