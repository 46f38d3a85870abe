"""Defaults, then a TOML file, then the command line: from `sys.argv` to a `Config`."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from jsonargparse import ArgumentParser, set_parsing_settings

from ddp.config import Config, ConfigError, to_dict
from ddp.schedule import describe

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
    arguments = _config_first(arguments)
    _check_sections(arguments)
    _check_config_files(arguments)
    try:
        options = parser.parse_args(arguments)
        config = parser.instantiate(options)
        values = {section.name: config[section.name] for section in dataclasses.fields(Config)}
    except argparse.ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from None
    if options["resume"] == "":
        raise ConfigError("--resume: empty; give auto or a checkpoint's path, or leave it out")
    return Invocation(Config(**values), options["resume"] or "", options["print_config"])


def dump_toml(config: Config) -> str:
    """The configuration as TOML that `--config` reads back to the same; and its learning rates, as a comment."""
    return f"{tomli_w.dumps(to_dict(config))}\n# {describe(config)}\n"


def _parser() -> ArgumentParser:
    # Units and defaults are documented where the fields are: the docstring under each is its help text.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=PROGRAM,
        usage=f"mpirun -n P {PROGRAM} [--config FILE.toml] [--SECTION.FIELD VALUE ...]",
        description="Train a network by synchronous data-parallel SGD. Without arguments: the digit recogniser.",
        exit_on_error=False,
        allow_abbrev=False,
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
    for action in parser._actions:
        if _known_fields().get(action.dest):
            action.help = argparse.SUPPRESS


def _config_first(arguments: Sequence[str]) -> list[str]:
    """Files before fields, since the parser lets the later of two values win."""
    files: list[str] = []
    fields: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            files += [argument, *itertools.islice(rest, 1)]
        else:
            (files if argument.startswith("--config=") else fields).append(argument)
    return files + fields


def _check_sections(arguments: Sequence[str]) -> None:
    """The parser would take `--batch X` for a file or a dictionary with the whole section."""
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--")
        if argument.startswith("--") and (fields := _known_fields().get(name)):
            raise ConfigError(f"--{name}: is a section; set its fields, such as --{name}.{fields[0]} VALUE")


def _check_config_files(arguments: Sequence[str]) -> None:
    """Find what is wrong with a file's path, syntax and names here, where the file can be named."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            _check_config_file(value if equals else next(iter(arguments[position + 1 :]), ""))


def _check_config_file(path: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(
            f"--config {path or '(empty)'}: no such file; give the path of a TOML file, such as configs/mlp.toml"
        )
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not valid TOML: {error}; mend the file") from None
    known = _known_fields()
    for section, value in content.items():
        if isinstance(value, dict):
            for name in value:
                if name not in known.get(section, ()):
                    raise ConfigError(f"--config {path}: {_unknown(f'{section}.{name}')}")
        elif section not in known:
            raise ConfigError(f"--config {path}: {_unknown(section)}")
        elif known[section]:
            raise ConfigError(f"--config {path}: {section} = {value}: is a section; write [{section}] above its fields")


def _known_fields() -> dict[str, list[str]]:
    """The fields of each section; none for a field at the top level."""
    return {name: list(value) if isinstance(value, dict) else [] for name, value in to_dict(Config()).items()}


def _one_line(message: str) -> str:
    """Rewrite the library's message to name field, value and fix on one line."""
    message = " ".join(message.split())
    if match := re.fullmatch(r'Parser key "(?P<name>[\w.]+)": (?P<what>.*?)\.? Got value: (?P<value>.*)', message):
        return f"{match['name']} = {match['value']}: {_expectation(match['what'])}; see --help"
    if match := re.fullmatch(r"unrecognized arguments: (?P<rest>.*)", message, re.IGNORECASE):
        return _unknown(match["rest"].split()[0])
    if match := re.fullmatch(r"argument (?P<name>--\S+): expected one argument", message):
        return f"{match['name']}: its value is missing; see --help"
    return message


def _expectation(what: str) -> str:
    """What the library expected, in the words of TOML."""
    if match := re.search(r"typing\.Literal\[(.*)\]", what):
        return f"expected one of {match[1]}"
    if match := re.search(r"tuple with (\d+ elements)", what):
        return f"expected a list of {match[1]}"
    kinds = {
        "int": "an integer",
        "float": "a finite number",
        "bool": "true or false",
        "str": "a string",
        "tuple": "a list such as [1,2]",
    }
    match = re.search(r"<class '(\w+)'>", what)
    return f"expected {kinds[match[1]]}" if match and match[1] in kinds else what


def _unknown(name: str) -> str:
    """The error for a name that is no field, with the nearest that is; its last part alone may be right."""
    known = [f"{section}.{field}" for section, fields in _known_fields().items() for field in fields]
    bare = name.lstrip("-").partition("=")[0]
    close = difflib.get_close_matches(bare, [*known, "seed", "threads"], n=1)
    close = close or [field for field in known if field.endswith(f".{bare}")]
    return f"unknown field {name}: " + (f"did you mean {close[0]}?" if close else "see --help for the fields")
