"""What of a kernel travels beside its namespace."""

from __future__ import annotations

from typing import Any


def take(kernel: Any) -> dict[str, Any]:
    """Plain JSON values; nothing is changed."""
    return {"session": kernel.session.session}


def give(kernel: Any, state: dict[str, Any]) -> list[str]:
    """Notes of what could not be had."""
    kernel.session.session = state["session"]
    return []
