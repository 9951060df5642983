"""Compiled programs that are kept on disk, so that a second run starts at once."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jaxnas.files import expanded


def enable_cache(folder: str | None) -> None:
    """Keeps compiled programs in `folder`, by default one in the user's cache, so that a second run starts at once.

    Raises: ValueError where the folder is something else.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = (
        expanded(folder)
        if folder
        else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxnas" / "xla"
    )
    if path.exists() and not path.is_dir():
        raise ValueError(f"cache_dir {path} is no folder: choose another one")
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
