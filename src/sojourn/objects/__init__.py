"""The namespace of a Python session as objects: captured here, restored there.

This package runs inside the session's own Python: from 3.10 on, with nothing but the standard library. It reads and
writes only the streams it is given.

    captured = capture(namespace)      # captured.lost: what can't travel, and why
    captured.write(file)
    restored = restore(file, namespace)
"""

from . import arrays, cells, classes, functions, handles, instances, refusals, tensors, widgets  # noqa: F401  (each registers its ways)
from .capture import Capture, capture
from .recomputable import marks
from .refusals import Lost
from .restore import Restored, restore
from .seen import Seen

__all__ = ["Capture", "Lost", "Restored", "Seen", "capture", "marks", "restore"]
