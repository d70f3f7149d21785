"""The types of what travels as JSON; only type checkers load this module."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ['Document']

#: A JSON object as it was read: what it has in it is known by who wrote it.
Document: TypeAlias = dict[str, Any]
