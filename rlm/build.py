"""From plain values to configuration dataclasses, all mistakes at once (imports nothing heavy)."""

import dataclasses
import functools
import json
import types
import typing
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rlm.errors import ConfigError, nearest
from rlm.limits import shown
from rlm.yaml_file import Document, Location

Configuration = TypeVar("Configuration")
_INVALID: Any = object()
_INTEGERS = 2**63
"""Whole numbers lie below, as in every library that takes them."""


def build(kind: type[Configuration], document: Document, errors: list[str] | None = None) -> Configuration:
    """Make a configuration dataclass of a mapping.

    Unions of dataclasses are told apart by `kind`, which must be given.
    Scalars are checked strictly by pydantic: `1` is no text, `true` is no number, and the limits beside a field's type
    (`rlm.limits`) hold.

    Args:
        kind: the dataclass.
        document: the mapping, and where its parts were written.
        errors: the mistakes are appended here and an unusable value is returned; None raises them.

    Raises:
        ConfigError: every mistake on a line of its own: place, dotted name, what was found, what to write instead.
    """
    found: list[str] = []
    value = _build(kind, document.value, (), document, found)
    if errors is not None:
        errors.extend(found)
    elif found:
        raise ConfigError("\n".join(found))
    return typing.cast(Configuration, value)


def build_plain(hint: Any, document: Document, errors: list[str], name: str) -> Any:
    """Check a value that is no dataclass, such as a mapping of numbers, called `name` in messages."""
    where = {(name, *path): line for path, line in document.where.items()}
    return _build(hint, document.value, (name,), Document(document.value, where), errors)


def _build(hint: Any, value: Any, location: Location, document: Document, errors: list[str]) -> Any:
    def mistake(text: str, at: Location = location) -> Any:
        place = document.place(at)
        errors.append(f"{place + ': ' if place else ''}{'.'.join(at) or 'the configuration'}: {text}")
        return _INVALID

    members = [member for member in _members(hint) if member is not type(None)]
    classes: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
    if not classes:
        if typing.get_origin(hint) is dict:
            if not isinstance(value, dict):
                return mistake(f"found {_shown(value)}; write a mapping of names")
            item = typing.get_args(hint)[1]
            return {name: _build(item, entry, (*location, name), document, errors) for name, entry in value.items()}
        return _leaf(hint, value, mistake)
    if value is None and type(None) in _members(hint):
        return None
    if not isinstance(value, dict):
        return mistake(f"found {_shown(value)}; write a mapping with the fields of {_names(classes)}")
    chosen: Any = classes[0]
    if len(classes) > 1:
        kinds = {_kind(member): member for member in classes}
        if "kind" not in value:
            return mistake(f"`kind` is missing; write kind: {' | '.join(sorted(kinds))}")
        if not isinstance(value["kind"], str) or value["kind"] not in kinds:
            return mistake(f"found {_shown(value['kind'])}; {nearest(value['kind'], kinds)}", (*location, "kind"))
        chosen = kinds[value["kind"]]
    before = len(errors)
    hints = _hints(chosen)
    given = {}
    for name, entry in value.items():
        if name not in hints:
            mistake(f"no such field of {chosen.__name__}; {nearest(name, hints)}", (*location, name))
        else:
            given[name] = _build(hints[name], entry, (*location, name), document, errors)
    for field in dataclasses.fields(chosen):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            mistake(f"`{field.name}` is missing; write {field.name}: {_wanted(hints[field.name])}")
    return chosen(**given) if len(errors) == before else _INVALID


def _leaf(hint: Any, value: Any, mistake: Any) -> Any:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return mistake(f"found {_shown(value)}; write {_wanted(hint)}")
    try:
        found = _adapter(hint).validate_json(text, strict=True)
        large = [each for each in (found if isinstance(found, tuple) else (found,)) if _beyond(each)]
        return mistake(f"found {shown(large[0])}; write a smaller whole number") if large else found
    except ValidationError as error:
        limits = [str(each["ctx"]["error"]) for each in error.errors() if each["type"] == "value_error"]
        if limits:
            return mistake(limits[0])
        literals = [
            choice
            for member in _members(hint)
            if typing.get_origin(member) is typing.Literal
            for choice in typing.get_args(member)
        ]
        if literals and isinstance(value, str):
            return mistake(f"found {_shown(value)}; {nearest(value, [str(choice) for choice in literals])}")
        return mistake(f"found {_shown(value)}; write {_wanted(hint)}")


def _beyond(value: Any) -> bool:
    return isinstance(value, int) and abs(value) >= _INTEGERS


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _bare(hint: Any) -> Any:
    """A type without its limits."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _kind(member: type) -> str:
    return str(typing.get_args(_hints(member)["kind"])[0])


def _names(classes: list[type]) -> str:
    return " or ".join(member.__name__ for member in classes)


def _shown(value: Any) -> str:
    words = {dict: "mapping", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{shown(text)}` ({words.get(type(value), type(value).__name__)})"


def _wanted(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    parts = []
    for member in map(_bare, _members(_bare(hint))):
        if typing.get_origin(member) is typing.Literal:
            parts.append(" | ".join(str(choice) for choice in typing.get_args(member)))
        elif typing.get_origin(member) is tuple:
            parts.append(f"a list, each {_wanted(typing.get_args(member)[0])}")
        elif typing.get_origin(member) is dict or dataclasses.is_dataclass(member):
            parts.append("a mapping")
        else:
            parts.append(words.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(dict.fromkeys(parts))
