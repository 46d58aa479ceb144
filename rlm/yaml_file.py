"""YAML read safely, with the file and line of every value (imports nothing heavy)."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlm.errors import ConfigError

Location = tuple[str, ...]
"""The names that lead to a value: keys, and positions in lists, as strings."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `3e-5` is a number, `on` and `2020-01-01` are strings."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (pyyaml's own attribute)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$",
        "-+.0123456789",
    ),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


@dataclass(frozen=True, slots=True)
class Document:
    """A value and where each of its parts was written.

    An overlay of documents keeps, for every part, the place of the one that won.
    """

    value: Any
    where: dict[Location, str] = field(default_factory=dict)
    """`file:line` by location."""

    def place(self, location: Location) -> str:
        """Where a value was written; that of the nearest enclosing value if it was not written at all."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.where:
                return self.where[location[:end]]
        return ""

    def part(self, *location: str) -> "Document":
        """A mapping's entry as a document of its own; an absent one is an empty mapping."""
        value = self.value
        for name in location:
            value = value.get(name) if isinstance(value, dict) else None
        size = len(location)
        where = {path[size:]: line for path, line in self.where.items() if path[:size] == location}
        where.setdefault((), self.place(location))
        return Document({} if value is None else value, where)


def read_yaml(path: Path, shown: str | None = None) -> Document:
    """Read one YAML file whose top level is a mapping.

    Args:
        path: the file.
        shown: the name of the file in messages; `path` by default.

    Raises:
        ConfigError: the file is absent, is no YAML, holds a name twice, or is no mapping.
    """
    shown = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{shown}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: cannot be read ({error})") from None
    document = parse_yaml(text, shown)
    if document.value is None:
        return Document({}, document.where)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{shown}: the top level is a {type(document.value).__name__}; write `name: value` lines")
    return document


def parse_yaml(text: str, shown: str) -> Document:
    """Parse one YAML text.

    Raises:
        ConfigError: the text is no YAML, or a mapping holds a name twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        where: dict[Location, str] = {}
        value = _construct(loader, node, (), where, shown, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{shown}{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}: not YAML: {error}") from None
    finally:
        loader.dispose()
    return Document(value, where)


def _construct(
    loader: _Loader,
    node: yaml.Node,
    location: Location,
    where: dict[Location, str],
    shown: str,
    enclosing: tuple[int, ...],
) -> Any:
    line = f"{shown}:{node.start_mark.line + 1}"
    where.setdefault(location, line)
    if id(node) in enclosing:
        raise ConfigError(f"{line}: an alias holds itself")
    enclosing = (*enclosing, id(node))
    if not isinstance(node, yaml.ScalarNode) and node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise ConfigError(f"{line}: the tag `{tag}` means nothing here; remove it")
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*location, str(i)), where, shown, enclosing) for i, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    first_lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{shown}:{key.start_mark.line + 1}: a name must be plain text")
        if key.value in first_lines:
            raise ConfigError(
                f"{shown}:{key.start_mark.line + 1}: `{key.value}` was already given in line {first_lines[key.value]};"
                " rename or remove one of the two"
            )
        first_lines[key.value] = key.start_mark.line + 1
    loader.flatten_mapping(node)
    mapping = {}
    for key, item in node.value:
        entry = (*location, key.value)
        where[entry] = f"{shown}:{key.start_mark.line + 1}"
        mapping[key.value] = _construct(loader, item, entry, where, shown, enclosing)
    return mapping
