"""The type of a JSON object; only type checkers load this module."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ['Document']

#: A JSON object as it was read; only the code that wrote it knows what is in it.
Document: TypeAlias = dict[str, Any]
