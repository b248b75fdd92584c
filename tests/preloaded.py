"""Importing this loads all of the engine: for a parent that forks a child for each step, which would import it each time."""

from __future__ import annotations

import importlib
import pkgutil

import engine

for _module in pkgutil.walk_packages(engine.__path__, "engine."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)
