"""YAML read safely, with the file and line of every value (imports nothing heavy)."""

import re
import stat
from dataclasses import dataclass, field
from math import isinf
from pathlib import Path
from typing import Any

import yaml

from rlm.errors import ConfigError
from rlm.limits import harmful, shown

Location = tuple[str, ...]
"""The names that lead to a value: keys, and positions in lists, as strings."""
BYTES, VALUES, DEPTH = 2**20, 10_000, 50
"""The most that a file may have, aliases counted as often as they are used: more is a mistake, and takes minutes."""
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `3e-5` is a number, `on` and `2020-01-01` are strings."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (pyyaml's own attribute)
    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; ends before Python's stack or the user's patience does."""
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > DEPTH or self.nodes > VALUES:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP if self.depth > DEPTH else _TOO_MANY, problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TOO_DEEP = f"nested more than {DEPTH} deep; a table needs far less"
_TOO_MANY = f"more than {VALUES:,} values, aliases counted as often as they are used; write fewer"
_SCALARS = {
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    "null": (r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
"""Their patterns, and the characters they begin with."""
for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^{_pattern}$"), list(_first))


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


def read_yaml(path: Path, shown_as: str | None = None) -> Document:
    """Read one YAML file whose top level is a mapping.

    Args:
        path: the file.
        shown_as: the name of the file in messages; `path` by default.

    Raises:
        ConfigError: the file is absent or no file, is no YAML, holds a name twice, or is no mapping.
    """
    file = shown_as or str(path)
    document = parse_yaml(_text(path, file), file)
    if document.value is None:
        return Document({}, document.where)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{file}: the top level is a {type(document.value).__name__}; write `name: value` lines")
    return document


def _text(path: Path, file: str) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ConfigError(f"{file}: is {kind}; name a YAML file")
        if status.st_size > BYTES:
            raise ConfigError(f"{file}: has {status.st_size:,} bytes, a table at most {BYTES:,}; name a YAML file")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def parse_yaml(text: str, file: str) -> Document:
    """Parse one YAML text, called `file` in messages.

    Raises:
        ConfigError: the text is no YAML, a mapping holds a name twice, or a value is none that a field could have.
    """
    if len(text) > BYTES:  # of an option; a file's are counted before they are read
        raise ConfigError(f"{file}: has {len(text):,} characters; write at most {BYTES:,}")
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{file}:{line}: not YAML: the character U+{ord(text[error.position]):04X}; remove it"
        ) from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else file
        raise ConfigError(f"{place}: not YAML: {shown(error.problem or error.context, 200)}") from None
    except (ValueError, OverflowError):  # of the numbers of characters and of YAML's version
        raise ConfigError(f"{file}:{loader.line + 1}: not YAML: a number that means nothing; correct it") from None
    finally:
        loader.dispose()
    reader = _Reader(file)
    return Document(reader.value(node, (), ()) if node is not None else None, reader.where)


class _Reader:
    """From nodes to plain values and their places."""

    def __init__(self, file: str) -> None:
        self.where: dict[Location, str] = {}
        self._file = file
        self._values = 0

    def value(self, node: yaml.Node, location: Location, enclosing: tuple[yaml.Node, ...]) -> Any:
        """The value of a node inside others."""
        self.where.setdefault(location, self._line(node))
        self._enter(node, enclosing)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            enclosing = (*enclosing, node)
            return [self.value(item, (*location, str(i)), enclosing) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            mapping = {}
            entries = self._entries(node, location, enclosing)
            enclosing = (*enclosing, node)
            for name, (key, item) in entries.items():
                self.where[*location, name] = self._line(key)
                mapping[name] = self.value(item, (*location, name), enclosing)
            return mapping
        raise self._meaningless(node)

    def _line(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"

    def _meaningless(self, node: yaml.Node) -> ConfigError:
        tag = shown(node.tag.replace(_TAG, "!!"))
        return ConfigError(f"{self._line(node)}: the tag `{tag}` means nothing here; remove it")

    def _enter(self, node: yaml.Node, enclosing: tuple[yaml.Node, ...]) -> None:
        """Aliases make values that are not in the text."""
        if any(node is outer for outer in enclosing):
            raise ConfigError(f"{self._line(node)}: an alias holds itself")
        self._values += 1
        if len(enclosing) >= DEPTH or self._values > VALUES:
            problem = _TOO_MANY if self._values > VALUES else _TOO_DEEP
            raise ConfigError(f"{self._line(node)}: {problem}")

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind in ("str", "merge"):
            if found := re.search("[\ud800-\udfff]", text):
                raise self._unusable(node, location, f"half a character, U+{ord(found[0]):04X}", "write whole ones")
            return text
        if kind not in _SCALARS or not re.fullmatch(_SCALARS[kind][0], text):
            raise self._meaningless(node)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        number = float(text.replace("_", ""))
        if isinf(number):
            raise self._unusable(node, location, shown(text), "write a finite number")
        return number if kind == "float" else int(text.replace("_", ""))

    def _unusable(self, node: yaml.Node, location: Location, found: str, instead: str) -> ConfigError:
        name = ".".join(location)
        return ConfigError(f"{self._line(node)}: {name + ': ' if name else ''}found {found}; {instead}")

    def _entries(
        self, mapping: yaml.MappingNode, location: Location, enclosing: tuple[yaml.Node, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Keys and values by name: those that `<<` merges, under the mapping's own."""
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, item in mapping.value:
            if key.tag == _TAG + "merge":
                enclosed = (*enclosing, mapping)
                for source in reversed(item.value) if isinstance(item, yaml.SequenceNode) else [item]:
                    self._enter(source, enclosed)
                    if not isinstance(source, yaml.MappingNode):
                        raise ConfigError(f"{self._line(source)}: `<<` takes a mapping, or a list of some")
                    merged |= self._entries(source, location, enclosed)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self._line(key)}: a name must be plain text")
            name = key.value
            if name in own:
                raise ConfigError(
                    f"{self._line(key)}: `{name}` was already given in line {own[name][0].start_mark.line + 1};"
                    " rename or remove one of the two"
                )
            if (found := harmful(name)) or not name.strip():
                what = f"the name `{shown(name)}` holds the character {found}" if found else "an empty name"
                inside = f"{'.'.join(location)}: " if location else ""
                raise ConfigError(f"{self._line(key)}: {inside}{what}; a name must be one line")
            own[name] = key, item
        return merged | own
