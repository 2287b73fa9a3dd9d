"""Large states: what a way costs shows here."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "a million small objects",
        cells="""
import random
chance = random.Random(1)
numbers = [chance.random() for _ in range(400_000)]
words = [f"word {n}" for n in range(200_000)]
index = {word: n for n, word in enumerate(words)}
pairs = [(n, -n) for n in range(100_000)]
""",
        probes="""
index["word 77777"], pairs[-1]
words[5] is next(key for key, n in index.items() if n == 5)
""",
        unexamined={"pairs": "its ends are probed, and its sum is that of the numbers"},
    ),
    State(
        "objects of one's own by the thousand",
        cells="""
class Particle:
    def __init__(self, number):
        self.number, self.position, self.alive = number, (number / 3, -number), True

swarm = [Particle(n) for n in range(50_000)]
by_number = {particle.number: particle for particle in swarm}
""",
        probes="""
by_number[40_000] is swarm[40_000]
sum(particle.position[0] for particle in swarm)
type(swarm[7]) is Particle
""",
        unexamined={"swarm": "summed by a probe", "by_number": "probed for its aliases"},
    ),
    State(
        "a frame of texts and categories",
        needs=("pandas", "numpy"),
        cells="""
import numpy as np
import pandas as pd
rng = np.random.default_rng(1)
people = pd.DataFrame({
    "town": pd.Categorical.from_codes(rng.integers(0, 3, 200_000), ["Ulm", "Jena", "Kiel"]),
    "name": [f"person {n}" for n in range(200_000)],
    "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, 200_000), unit="s"),
})
by_town = people.groupby("town", observed=True).size()
""",
        probes="""
by_town.to_dict()
people["name"].iloc[123_456]
""",
    ),
    State(
        "160 MB in one array",
        needs=("numpy",),
        largest_mb=160,
        cells="""
import numpy as np
field = np.random.default_rng(1).random((20_000, 1000))
mean = field.mean()
""",
    ),
    State(
        "200 MB in forty arrays, some of them views",
        needs=("numpy",),
        largest_mb=5,
        cells="""
import numpy as np
rng = np.random.default_rng(2)
layers = {f"layer {n}": rng.standard_normal((625, 1000)) for n in range(40)}
first = layers["layer 0"]
top = first[:10]
""",
        probes="""
layers["layer 0"] is first
np.shares_memory(top, first)
""",
    ),
    State(
        "a frame of 150 MB",
        needs=("pandas", "numpy"),
        largest_mb=128,
        cells="""
import numpy as np
import pandas as pd
rng = np.random.default_rng(3)
trades = pd.DataFrame(rng.standard_normal((1_000_000, 16)), columns=[f"c{n}" for n in range(16)])
trades["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(1_000_000), unit="s")
trades["side"] = pd.Categorical.from_codes(rng.integers(0, 2, 1_000_000), ["buy", "sell"])
daily = trades.groupby(trades["day"].dt.date)["c0"].mean()
""",
        probes="""
daily.iloc[3]
trades["side"].value_counts().to_dict()
""",
    ),
    State(
        "a torch model of 120 MB",
        needs=("torch",),
        largest_mb=36,
        cells="""
import torch
torch.manual_seed(4)
net = torch.nn.Sequential(*(torch.nn.Linear(3000, 3000) for _ in range(3)))
sample = torch.ones(1, 3000)
""",
        probes="""
net(sample).sum().item()
sum(part.numel() for part in net.parameters())
""",
    ),
    State(
        "120 MB of polars and of bytes",
        needs=("polars", "numpy"),
        largest_mb=60,
        cells="""
import numpy as np
import polars as pl
rng = np.random.default_rng(5)
frame = pl.DataFrame({"a": rng.random(3_750_000), "b": rng.integers(0, 9, 3_750_000)})
blob = bytes(rng.integers(0, 256, 60_000_000, dtype=np.uint8))
""",
        probes="""
frame["a"].sum(), frame.height
blob[-5:]
""",
    ),
)
