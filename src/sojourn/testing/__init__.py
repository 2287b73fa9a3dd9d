"""For tests and benchmarks: a Sojourn of one's own on this machine, and kernels in it."""

from sojourn.testing.stack import LOCAL, OURS, end_kernel, execute, session_of, stack, start_kernel

__all__ = ["LOCAL", "OURS", "end_kernel", "execute", "session_of", "stack", "start_kernel"]
