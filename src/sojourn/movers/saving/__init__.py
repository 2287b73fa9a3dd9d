"""A session's state on its way into the store.

    windows   a task's memory as chunks: windows of fixed size at fixed addresses (no I/O)
    memory    where the bytes of chunks are read: from the frozen tasks, from a copy set aside, from CRIU's images
    writer    the process that writes a checkpoint

The writer is a process of its own: hashing, compressing and sealing must not slow down an agent, and the crash of an
agent must not leave a thread behind in the middle of it.
"""
