"""The mover that takes the whole process tree, with CRIU and our own pager."""
