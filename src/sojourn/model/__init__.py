"""The words: what crosses a wire or stands in the database, as frozen pydantic models."""

from sojourn.model.checkpoints import (
    CheckpointKind,
    CheckpointView,
    SavePhase,
    SaveReport,
    SaveView,
    StorePass,
    WakePhase,
    WakeView,
)
from sojourn.model.moves import MovePhase, MovePlan, MoveReport, MoveView, Strategy
from sojourn.model.nodes import Capabilities, Eviction, Load, NodeStatus, NodeView, SessionLoad
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
    "CheckpointKind",
    "CheckpointView",
    "Eviction",
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
    "SavePhase",
    "SaveReport",
    "SaveView",
    "SessionLoad",
    "SessionSpec",
    "SessionStatus",
    "SessionView",
    "StorePass",
    "Strategy",
    "WakePhase",
    "WakeView",
]
