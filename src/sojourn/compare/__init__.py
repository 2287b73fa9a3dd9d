"""A notebook's state carried by each way: how long that takes, how much travels, and what survives.

A `notebook` is run in `kernels`; each of the `ways` to carry its state is tried between two `places`, `survival` judges
what came over, `report` and `page` show it. What runs inside the kernels is in `inside`; `wire` and `hosts` make links
of known speed.
"""
