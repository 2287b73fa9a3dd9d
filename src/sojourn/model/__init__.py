"""The words: what crosses a wire or stands in the database, as frozen pydantic models."""

from sojourn.model.moves import MovePhase, MovePlan, MoveReport, MoveView, Strategy
from sojourn.model.nodes import Capabilities, Load, NodeStatus, NodeView
from sojourn.model.resources import Needs, Resources
from sojourn.model.sessions import (
    Inspection,
    Mount,
    Place,
    Program,
    SandboxKind,
    SessionSpec,
    SessionStatus,
    SessionView,
)

__all__ = [
    "Capabilities",
    "Inspection",
    "Load",
    "Mount",
    "MovePhase",
    "MovePlan",
    "MoveReport",
    "MoveView",
    "Needs",
    "NodeStatus",
    "NodeView",
    "Place",
    "Program",
    "Resources",
    "SandboxKind",
    "SessionSpec",
    "SessionStatus",
    "SessionView",
    "Strategy",
]
