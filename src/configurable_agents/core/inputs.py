"""The state before any node: the inputs given, coerced to their fields' types, and the defaults of the rest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configurable_agents.config.outputs import state_type
from configurable_agents.config.schema import StateField, WorkflowConfig
from configurable_agents.config.types import ValueType
from configurable_agents.core.encoding import copy_plain
from configurable_agents.errors import InputError
from configurable_agents.once import Once


@dataclass(frozen=True)
class InputTypes:
    """The state fields of a workflow, with their types made once."""

    fields: Mapping[str, StateField]
    types: Mapping[str, ValueType] = field(repr=False)

    @classmethod
    def of(cls, config: WorkflowConfig) -> InputTypes:
        """Make the types of a workflow's state fields."""
        fields = config.state.fields
        return cls(fields, {name: state_type(spec) for name, spec in fields.items()})

    def split(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check the inputs and give the state before any node, in two parts: the inputs, coerced, and the defaults.

        Raises:
            InputError: An input is unknown, missing or of the wrong type; all that are wrong are named.
        """
        problems = [self._unknown(name) for name in inputs if name not in self.fields]
        given: dict[str, Any] = {}
        for name in self.fields:
            if name in inputs:
                try:
                    given[name] = self.types[name].validate(inputs[name])
                except ValueError as error:
                    problems.append(f"input {name!r}: {error}")
            elif name not in self._defaults:
                problems.append(f"input {name!r} is missing; it is {self._described(name)}")
        if problems:
            raise InputError(problems)
        return given, {name: copy_plain(value) for name, value in self._defaults.items() if name not in given}

    @Once
    def _defaults(self) -> Mapping[str, Any]:
        """Of each field that no input is needed for: its value without one."""
        return {
            name: None if spec.default is None else self.types[name].validate(spec.default)
            for name, spec in self.fields.items()
            if not spec.required
        }

    def _described(self, name: str) -> str:
        description = self.fields[name].description
        return f"{self.types[name].text} – {description}" if description else self.types[name].text

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(str(name), self.fields, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"input {name!r} is unknown; {hint}The state fields are {', '.join(self.fields)}"
