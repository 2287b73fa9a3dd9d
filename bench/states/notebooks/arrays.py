"""NumPy and SciPy: views, orders, types, random streams, memory maps."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "arrays of every kind",
        needs=("numpy",),
        cells="""
import numpy as np
numbers = np.linspace(0, 1, 1001)
column_major = np.asfortranarray(np.arange(12.0).reshape(3, 4))
mask = numbers > 0.5
words = np.array(["a", "bcd"])
things = np.array([{"a": 1}, [2], None], dtype=object)
days = np.array(["2024-02-29", "NaT"], dtype="datetime64[D]")
half, foreign = np.float16([1.5]), np.arange(3, dtype=">i4")
people = np.array([("Ada", 36), ("Bob", 7)], dtype=[("name", "U8"), ("age", "i2")])
hidden = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
scalar, empty = np.float32(0.1), np.empty((0, 3))
frozen = np.arange(3); frozen.flags.writeable = False
""",
        probes="""
people["age"].sum()
hidden.sum(), hidden.mask
column_major.flags.f_contiguous
frozen.flags.writeable
things[0] is things.tolist()[0]
""",
    ),
    State(
        "views of one array",
        needs=("numpy",),
        cells="""
import numpy as np
grid = np.arange(24.0).reshape(4, 6)
# %%
column, corner, flipped = grid[:, 1], grid[:2, :2], grid[::-1]
flat = grid.ravel()
""",
        probes="""
np.shares_memory(grid, column), np.shares_memory(grid, flat)
column.__setitem__(0, -1.0) or grid[0, 1], corner[0, 1], flat[1]
flipped.__setitem__((0, 0), -2.0) or grid[3, 0]
column.base is grid.base
""",
    ),
    State(
        "one array under many names",
        needs=("numpy",),
        cells="""
import numpy as np
weights = np.ones((100, 100))
model = {"layers": [weights, weights], "best": weights}
history = [model, {"best": weights}]
""",
        probes="""
model["layers"][0] is weights and history[1]["best"] is weights
weights.__setitem__((0, 0), 5.0) or model["best"][0, 0], history[1]["best"][0, 0]
""",
    ),
    State(
        "an array over a buffer that others see",
        needs=("numpy",),
        cells="""
import array
import numpy as np
memory = bytearray(64)
seen = np.frombuffer(memory, dtype=np.int32)
seen[3] = 77
window = memoryview(memory)[12:16]
readings = array.array("d", [1.0, 2.5])
wave = np.frombuffer(readings)
""",
        probes="""
memory[12]
memory.__setitem__(0, 9) or seen[0]
bytes(window)
readings.__setitem__(0, 4.0) or wave[0]
""",
    ),
    State(
        "an array with a class and attributes of its own",
        needs=("numpy",),
        cells="""
import numpy as np

class Signal(np.ndarray):
    def __new__(cls, data, rate):
        self = np.asarray(data, dtype=float).view(cls)
        self.rate = rate
        return self
    def __array_finalize__(self, other):
        self.rate = getattr(other, "rate", None)
    def seconds(self):
        return len(self) / self.rate

tone = Signal(np.sin(np.arange(100)), rate=50)
""",
        probes="""
tone.rate
tone.seconds()
type(tone[:10]) is Signal
""",
    ),
    State(
        "streams of random numbers",
        needs=("numpy",),
        cells="""
import random
import numpy as np
random.seed(3)
np.random.seed(4)
rng = np.random.default_rng(5)
old = np.random.RandomState(6)
mine = random.Random(7)
drawn = [random.random(), np.random.rand(), rng.normal(), old.normal(), mine.gauss(0, 1)]
shuffler = rng.shuffle
""",
        probes="""
random.random()
np.random.rand()
rng.normal(), rng.integers(100)
old.normal(), mine.gauss(0, 1)
shuffler.__self__ is rng
""",
    ),
    State(
        "sparse matrices and what SciPy makes",
        needs=("scipy",),
        cells="""
import numpy as np
from scipy import interpolate, optimize, sparse, spatial, stats
matrix = sparse.random(100, 100, density=0.05, format="csr", random_state=1)
blocks = sparse.coo_matrix(([1, 2], ([0, 1], [1, 0])))
# %%
x = np.linspace(0, 6, 20)
curve = interpolate.CubicSpline(x, np.sin(x))
line = interpolate.interp1d(x, np.cos(x))
tree = spatial.KDTree(np.random.default_rng(1).random((50, 2)))
bell = stats.norm(loc=3, scale=2)
best = optimize.minimize(lambda p: (p - 3) @ (p - 3), [0.0, 0.0])
""",
        probes="""
matrix.sum(), (matrix @ matrix).nnz
float(curve(1.234)), float(line(1.234))
tree.query([0.5, 0.5])
bell.cdf(4), best.x.round(3).tolist(), best.success
""",
        unexamined={
            "tree": "examined by a query",
            "bell": "examined by its distribution",
            "curve": "examined by a value",
            "line": "examined by a value",
            "best": "examined by its fields",
        },
    ),
    State(
        "a memory map of a file",
        needs=("numpy",),
        cells="""
import mmap
import numpy as np
np.arange(1000.0).tofile("numbers.bin")
numbers = np.memmap("numbers.bin", dtype=float, mode="r+")
numbers[0] = -1
numbers.flush()
plain = np.load("numbers.npy", mmap_mode="r") if np.save("numbers.npy", np.arange(5)) is None else None
""",
        probes="""
type(numbers).__name__
float(numbers[0]), float(numbers.sum())
numbers.__setitem__(1, -5.0) or numbers.flush() or float(np.fromfile("numbers.bin")[1])
plain.tolist()
""",
        unexamined={"numbers": "its sum and its writing are probed", "plain": "probed as a list"},
    ),
    State(
        "anonymous memory and views of it",
        cells="""
import mmap
memory = mmap.mmap(-1, 8192)
memory[:5] = b"hello"
memory.seek(3)
view = memoryview(memory)[:5]
""",
        probes="""
memory[:5], memory.tell()
bytes(view)
""",
    ),
)
