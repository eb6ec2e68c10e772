"""Checks a document against the schema: pydantic's errors in our words, with our paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from configurable_agents.config._adapters import describe
from configurable_agents.config.findings import ENOUGH, Findings, Remedy, close_to, did_you_mean, listed
from configurable_agents.config.positions import Path
from configurable_agents.config.schema import NODE_KINDS, WorkflowConfig, kind_of

# Errors of one pass can hide others (rules over a whole model run only when its fields are right), so what is known to
# be wrong is taken out and the document is checked again.
MAX_PASSES: Final = 4


def check(document: dict[str, Any], findings: Findings) -> tuple[WorkflowConfig | None, set[Path]]:
    """Check the document, in place of which unknown keys and empty values are taken out.

    Returns:
        The configuration, if the document is one; and the paths that are wrong.
    """
    wrong: set[Path] = set()
    unknown: dict[Path, list[str]] = {}
    for _ in range(MAX_PASSES):
        try:
            return WorkflowConfig.model_validate(document), wrong
        except ValidationError as error:
            errors = [_Error(document, raw) for raw in error.errors(include_url=False)[:ENOUGH]]
        repaired = [problem for problem in errors if problem.repair(findings)]
        for problem in repaired:
            unknown.setdefault(problem.path[:-1], []).append(str(problem.path[-1]))
        if not repaired:
            break
    for problem in errors:
        if problem not in repaired:
            wrong.add(problem.path)
            if not problem.follows_from_others(unknown):
                problem.tell(findings)
    return None, wrong


class _Error:
    """One of pydantic's errors, with the path that the document itself has."""

    def __init__(self, document: Any, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self.kind: str = raw["type"]
        self.path, self._holder = _document_path(document, raw["loc"])

    def repair(self, findings: Findings) -> bool:
        """Take out an unknown key, which is then told, or a key with nothing after it, which counts as not given."""
        key = self.path[-1] if self.path else None
        if not isinstance(self._holder, dict) or key not in self._holder:
            return False
        if self.kind == "extra_forbidden":
            findings.add_unless_muted(self.path, "unknown key", self._unknown_key(), on_key=True)
        elif not self._is_empty_option(key):
            return False
        del self._holder[key]
        return True

    def _is_empty_option(self, key: Any) -> bool:
        if self._holder[key] is not None:
            return False
        model = model_at(self.path[:-1], self._holder)
        field = next((info for name, info in fields_of(model).items() if name == key), None)
        return field is not None and not field.is_required()

    def follows_from_others(self, unknown: Mapping[Path, Sequence[str]]) -> bool:
        """Tell whether this is no mistake of its own: a key is missing only because it is misspelt."""
        if self.kind == "too_short" and self._raw["input"]:
            return True  # entries that are wrong do not count for pydantic, and have been told
        if self.kind != "missing":
            return False
        return any(close_to(key, [str(self.path[-1])]) for key in unknown.get(self.path[:-1], ())[:100])

    def tell(self, findings: Findings) -> None:
        """Add the problem to the findings."""
        message, remedy = self._words()
        if _outer_alternative(self._raw["loc"]):
            if isinstance(self._raw["input"], list):
                return  # the list's own entries say what is wrong
            message, remedy = "expected the id of a node, or a list of ids", ""
        findings.add_unless_muted(self.path, message, remedy)

    def _unknown_key(self) -> Remedy:
        known = list(fields_of(model_at(self.path[:-1], self._holder)))
        remedy = did_you_mean(str(self.path[-1]), known, "The keys here are {names}.")
        return lambda: self._further_in(known) or remedy()

    def _further_in(self, known: Sequence[str]) -> str:
        """Say that a key belongs into another, as `temperature` into `llm`."""
        key, model = str(self.path[-1]), model_at(self.path[:-1], self._holder)
        for name, field in fields_of(model).items() if close_to(key, known) is None else ():
            inner = [inner for found in _models_in(field.annotation) for inner in fields_of(found)]
            if meant := close_to(key, inner):
                return f"Did you mean {f'{name}.{meant}'!r}: {meant!r} inside of {name!r}?"
        return ""

    def _words(self) -> tuple[str, Remedy]:
        given, context = self._raw["input"], self._raw.get("ctx", {})
        match self.kind:
            case "missing":
                return "this key is missing", _MISSING.get(str(self.path[-1]), "")
            case "value_error":
                return str(context["error"]), ""
            case "literal_error":
                choices = _choices(str(context["expected"]))
                return f"expected {context['expected']}, got {describe(given)}", did_you_mean(str(given), choices)
            case "union_tag_invalid" | "union_tag_not_found" if isinstance(given, dict):
                return f"a node has exactly one of {listed(list(NODE_KINDS))}", ""
            case "too_short":
                return "expected at least one entry", ""
        limit = _LIMITS.get(self.kind)
        if limit:
            context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
            return f"expected {limit.format(**context)}, got {describe(given)}", ""
        expected = _EXPECTED.get(self.kind.split("_")[0], str(self._raw["msg"]))
        return f"expected {expected}, got {describe(given)}", _quotes(expected, given)


_MISSING: Final = {
    "schema_version": "Begin the file with 'schema_version: \"1.0\"'.",
    "type": "The types are str, int, float, bool, list, dict, object, list[T] and dict[K, V].",
}
_EXPECTED: Final = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "finite": "a finite number",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "union": "a mapping",
    "list": "a list",
    "tuple": "a list",
}
_LIMITS: Final = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "a text that is not empty",
    "string_too_long": "at most {max_length} characters",
}


def _quotes(expected: str, given: Any) -> str:
    if expected != "a text":
        return ""
    if isinstance(given, dict):
        return "Put a text that begins with '{' in quotes."
    return "Put it in quotes." if isinstance(given, int | float) else ""


def _choices(expected: str) -> list[str]:
    return [part.strip().strip("'") for part in expected.replace(" or ", ",").split(",")]


def _document_path(document: Any, location: Sequence[str | int]) -> tuple[Path, Any]:
    """Leave out what pydantic names beside the document's own keys: the alternatives of unions."""
    path: list[str | int] = []
    holder: Any = None
    value = document
    last = len(location) - 1
    for index, part in enumerate(location):
        if index == 2 and location[0] == "nodes" and part in NODE_KINDS and index != last and kind_of(value) == part:
            continue
        if isinstance(value, dict) and (part in value or index == last):
            holder, value = value, value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            holder, value = value, value[part]
        else:
            continue
        path.append(part)
    return tuple(path), holder


def _outer_alternative(location: Sequence[str | int]) -> bool:
    """Tell whether an error says only which alternative of an edge's `to` did not fit."""
    return len(location) == 4 and location[0] == "edges" and location[2] == "to"


def model_at(path: Path, value: Any = None) -> type[BaseModel] | None:
    """Find the model that describes the mapping at `path`; None where it is free data."""
    model: type[BaseModel] | None = WorkflowConfig
    if len(path) == 2 and path[0] == "nodes" and isinstance(value, Mapping) and (kind := kind_of(value)):
        return NODE_KINDS[kind]
    annotation: Any = None
    for part in path:
        field = fields_of(model).get(str(part)) if model is not None else None
        annotation = field.annotation if field is not None else annotation
        models = _models_in(annotation)
        if not models:
            return None
        model = _with_field(models, part, path)
    return model


def _with_field(models: Sequence[type[BaseModel]], part: str | int, path: Path) -> type[BaseModel]:
    if len(models) == 1:
        return models[0]
    wanted = str(path[2]) if len(path) > 2 else ""
    return next((model for model in models if wanted in fields_of(model)), models[0])


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def fields_of(model: type[BaseModel] | None) -> dict[str, Any]:
    """List a model's fields by the keys that a file writes."""
    return {info.alias or name: info for name, info in (model.model_fields.items() if model else ())}
