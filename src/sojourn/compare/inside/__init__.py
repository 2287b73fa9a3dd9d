"""What is carried into the kernels that are compared: the standard library alone, Python 3.10 or newer."""
