"""What this machine needs for sessions that move, what it has, and the commands that close the gap.

`examine` looks, `cure` mends; `sojourn doctor` shows both. Nothing here asks a question, and nothing is changed
unless `cure` is called.
"""

from sojourn.doctor.checks import examine
from sojourn.doctor.cures import cure
from sojourn.doctor.findings import Cure, Finding, State
from sojourn.doctor.machine import Machine

__all__ = ["Cure", "Finding", "Machine", "State", "cure", "examine"]
