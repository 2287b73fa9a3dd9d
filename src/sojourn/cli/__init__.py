"""The command `sojourn`. Each module here holds a few commands; what is slow to import is imported inside them."""
