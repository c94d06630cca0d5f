"""Libraries that only some registries need."""

import importlib
from typing import Any

from berth.errors import NotImplementedHere


def need(module: str, extra: str, what: str) -> Any:
    """The module; NotImplementedHere names the command that installs it. what: the option that wants it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise NotImplementedHere(f"{what} needs the Python package {module}: pip install 'berth[{extra}]'") from None
