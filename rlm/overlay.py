"""Overlays of configuration documents: base, scale, row, `--set` (imports nothing heavy)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlm.errors import ConfigError
from rlm.limits import shown, unusable_name
from rlm.yaml_file import DEPTH, Document, Location, parse_yaml


def merge(under: Document, over: Document) -> Document:
    """Lay one mapping over another, recursively.

    A mapping that gives another `kind` replaces the one below it: the fields of one kind mean nothing to another.
    """
    replaced: set[Location] = set()
    value = _merge(under.value, over.value, (), replaced)
    where = {path: line for path, line in under.where.items() if not _inside(path, replaced)}
    where.update({path: line for path, line in over.where.items() if path != ()})
    return Document(value, where)


def _merge(under: Any, over: Any, location: Location, replaced: set[Location]) -> Any:
    mappings = isinstance(under, Mapping) and isinstance(over, Mapping)
    if mappings and "kind" in over and "kind" in under and over["kind"] != under["kind"]:
        mappings = False
    if not mappings:
        replaced.add(location)
        return over
    merged = dict(under)
    for name, value in over.items():
        merged[name] = _merge(merged[name], value, (*location, name), replaced) if name in merged else value
    return merged


def _inside(path: Location, replaced: set[Location]) -> bool:
    """Whether a value below was replaced by another, whose parts have other places."""
    return any(path[:end] in replaced for end in range(len(path)))


def nest(document: Document) -> Document:
    """Turn dotted names into nested mappings: `{pretrain.candidates: 4}` into `{pretrain: {candidates: 4}}`.

    Raises:
        ConfigError: a value is given twice, or both as a whole and in parts.
    """
    where: dict[Location, str] = {(): document.place(())}
    nested: dict[str, Any] = {}
    for path, line in document.where.items():
        dotted = tuple(part for name in path for part in name.split("."))
        if len(dotted) > DEPTH:
            raise ConfigError(f"{line}: `{shown('.'.join(path))}` has more than {DEPTH} names; a field has far fewer")
        where[dotted] = line
        for end in range(1, len(dotted)):
            where.setdefault(dotted[:end], line)
    _nest(document.value, nested, (), where)
    return Document(nested, where)


def _nest(value: Mapping[str, Any], into: dict[str, Any], location: Location, where: Mapping[Location, str]) -> None:
    for dotted, item in value.items():
        names = dotted.split(".")
        path = (*location, *names)
        place = where.get(path, where[()])
        if not all(names):
            raise ConfigError(f"{place}: `{shown(dotted)}` has an empty part; write names joined by single dots")
        target = into
        for name in names[:-1]:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{place}: `{'.'.join(path)}` is inside a value given as a whole above")
        if isinstance(item, Mapping):
            below = target.setdefault(names[-1], {})
            if isinstance(below, dict):
                _nest(item, below, path, where)
                continue
        if names[-1] in target:
            raise ConfigError(f"{place}: `{'.'.join(path)}` is given twice; keep one")
        target[names[-1]] = item


def parse_settings(settings: Sequence[str]) -> Document:
    """The mapping of options `--set a.b=value`, values read as YAML.

    Raises:
        ConfigError: an option is not of that form.
    """
    value: dict[str, Any] = {}
    where: dict[Location, str] = {(): "--set"}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(f"--set {shown(setting)}: write --set NAME=VALUE, such as --set pretrain.candidates=4")
        if wrong := unusable_name(name):
            raise ConfigError(f"--set {shown(name)}: {wrong}")
        if name in value:
            raise ConfigError(f"--set {name} is given twice; keep one")
        parsed = parse_yaml(text, f"--set {shown(name)}")
        value[name] = parsed.value
        place = f"--set {shown(setting, 200)}"
        where[(name,)] = place
        where.update({(name, *path): place for path in parsed.where if path})
    return nest(Document(value, where))
