"""What the controller remembers: tables, every question to them, and the migrations that make them."""

from sojourn.database.copying import copy
from sojourn.database.database import Database, shown
from sojourn.database.records import Checkpoint, Node, Token, Verb
from sojourn.database.sqlite import sqlite_url

__all__ = ["Checkpoint", "Database", "Node", "Token", "Verb", "copy", "shown", "sqlite_url"]
