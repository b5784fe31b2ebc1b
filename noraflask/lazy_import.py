"""Modules that a library imports and nothing here uses are read when somebody uses them: they would be in the memory of each server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def lazily(*names: str) -> Iterator[None]:
    """Whoever imports such a module inside, and takes nothing out of it yet, has something that becomes it. Outside of it all is as usual."""
    ours = {name: _Later(name) for name in names if name not in sys.modules}
    sys.modules.update(ours)
    try:
        yield
    finally:
        for name, module in ours.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
