"""The keys of a config: which there are, which one was meant, and what is wrong with what was given for one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError
from pipeline.nn.spec import SPECS

_PLACES = ("source", "archive", "results", "data")  # sections with a uri; each is also a flag


def known_keys(model: type, prefix: str = "") -> list[str]:
    """Every dotted key of `model`, sections included."""
    keys = []
    for name, annotation in _fields_of(model).items():
        keys.append(prefix + name)
        for section in _sections_of(annotation):
            keys += known_keys(section, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))


def _fields_of(model: type) -> dict[str, Any]:
    """Name -> type of a pydantic model's or a dataclass's fields."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in dataclasses.fields(model)}  # type: ignore[arg-type]


def _sections_of(annotation: Any) -> list[type]:
    """The models among the options of an annotation."""
    options = getattr(annotation, "__args__", None) or (annotation,)
    return [o for o in options if isinstance(o, type) and (issubclass(o, BaseModel) or dataclasses.is_dataclass(o))]


def refuse_unknown(model: type[BaseModel], tree: Mapping[str, Any], origin: str) -> None:
    """Raises ConfigError for a key of `tree` that `model` does not have, naming the nearest one that it has."""
    known = known_keys(model)
    for key in _keys_in(tree, model):
        if key not in known:
            raise ConfigError(f"{origin}: unknown key {key!r}; {_nearest(key, known)}")


def _keys_in(tree: Mapping[str, Any], model: type, prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys.append(f"{prefix}{name}")
        sections = _sections_of(_fields_of(model).get(str(name)))
        for inside in value if isinstance(value, list) else [value]:
            if sections and isinstance(inside, Mapping):
                keys += _keys_in(inside, sections[0], f"{prefix}{name}.")
    return keys


def _nearest(key: str, known: Sequence[str]) -> str:
    by_leaf = {one.rpartition(".")[2]: one for one in known}
    begun = [one for one in known if one.startswith(key)]
    close = begun[:1] or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    leaf = difflib.get_close_matches(key.rpartition(".")[2], by_leaf, n=1, cutoff=0.6)
    if close or leaf:
        return f"did you mean {(close[0] if close else by_leaf[leaf[0]])!r}?"
    return f"known keys are {', '.join(one for one in known if '.' not in one)} and what is inside them"


# What pydantic says of a value, in the words of a config file.
_EXPECTED = {
    "list_type": "a list, such as [20, 60]",
    "model_type": "keys and values, such as {{name: jpeg, qualities: [20, 60]}}",
    "model_attributes_type": "keys and values, such as {{name: jpeg, qualities: [20, 60]}}",
    "dict_type": "keys and values, such as {{key: value}}",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text; put it in quotes",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
}


def first_problem(error: ValidationError) -> str:
    """What is wrong with the first value that was refused, in one sentence that begins with its key."""
    problem = error.errors()[0]
    # Which kind of model was taken is no part of what was written.
    key = ".".join(str(part) for part in problem["loc"] if part not in SPECS)
    if problem["type"] == "missing":
        if key == "codecs":
            return "codecs is missing; set codecs, such as codecs='[{name: jpeg, qualities: [20, 60]}]'"
        flag = f" (or --{key.removesuffix('.uri')})" if key.removesuffix(".uri") in (*_PLACES, "out") else ""
        return f"{key} is missing; set {key + '.uri' if key in _PLACES else key}{flag}"
    found, expected = problem.get("input"), _EXPECTED.get(problem["type"])
    said = problem["msg"] if expected is None else f"expected {expected.format(**problem.get('ctx', {}))}"
    return f"{key} is {found!r}: {said}" if key else str(said)
