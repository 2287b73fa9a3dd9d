"""Machines that are reached over SSH: what `sojourn add` and `sojourn remove` do there, and the lines kept up to them.

The system's own `ssh` does all the talking, so keys, agents, `~/.ssh/config`, jump hosts and questions are the user's.
"""
