"""Moves by objects: the namespace of a Python kernel goes into a new kernel at the target (contracts).

code       what both kernels run to carry it            porter_line   an agent's line to a kernel's porter
departure  the source's half                            arrival       the target's half
"""
