"""What the controller remembers: tables, every question to them, and the migrations that make them."""

from sojourn.database.database import Database, sqlite_url
from sojourn.database.records import Checkpoint, Node, Token, Verb

__all__ = ["Checkpoint", "Database", "Node", "Token", "Verb", "sqlite_url"]
