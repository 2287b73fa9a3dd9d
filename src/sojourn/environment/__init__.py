"""Environment layers: what a kernel runs from, taken along to nodes whose root is another.

At home a session sees the node's own root. Elsewhere it sees **layers** in its place: folder trees with the very files
that home has under the same paths, read-only, named by what is in them, and kept by each node in its **depot**. A layer
is made of one **part** of home's root: the system, or a prefix such as a venv.
"""
