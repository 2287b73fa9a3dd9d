"""The pager brings the memory pages of a session that already runs: from where it is frozen, or from a checkpoint.

    source    process at the source: reads the frozen tasks' memory, answers requests
    target    process at the target: answers the restored tasks' page faults and fills in the rest
    pieces    which ranges of an address space still miss their pages (no I/O)
    frames    what the two processes say to each other (no I/O)
    userfault the kernel's userfaultfd
    supply    how bytes get from the source's memory into a buffer of the target
    vault     the same, from a checkpoint's chunks

Both are processes of their own: the crash of an agent does not stop a fill.
"""
