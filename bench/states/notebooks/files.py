"""Files and databases, below the working folder and elsewhere."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "files that are being read and written",
        cells="""
from pathlib import Path
Path("rows.txt").write_text("".join(f"row {n}\\n" for n in range(100)))
reading = open("rows.txt")
header = [next(reading) for _ in range(3)]
# %%
log = open("log.txt", "w+")
log.write("first\\n")
log.flush()
raw = open("rows.txt", "rb")
raw.seek(10)
done = open("rows.txt")
done.close()
""",
        probes="""
reading.readline()
log.write("second\\n") and log.flush() or Path("log.txt").read_text()
raw.read(5), raw.name
done.closed
""",
        unexamined={"reading": "read from by a probe; a text file that is iterated doesn't tell where it is"},
    ),
    State(
        "a line that was written but not flushed",
        cells="""
from pathlib import Path
log = open("unflushed.txt", "w")
log.write("not on disk yet")
""",
        probes="""
log.flush() or Path("unflushed.txt").read_text()
log.tell()
""",
    ),
    State(
        "files opened for appending, and csv writers on them",
        cells="""
import csv, gzip
table = open("out.csv", "a", newline="")
writer = csv.writer(table)
writer.writerow(["a", 1])
table.flush()
source = open("out.csv", newline="")
reader = csv.DictReader(source, fieldnames=["k", "v"])
""",
        probes="""
next(reader)
writer.writerow(["b", 2]) and table.flush() or open("out.csv").read()
""",
        unexamined={
            "writer": "probed by writing",
            "reader": "probed by reading",
            "table": "probed by writing",
            "source": "probed by the reader",
        },
    ),
    State(
        "temporary files and folders",
        cells="""
import tempfile
from pathlib import Path
scratch = tempfile.NamedTemporaryFile("w+", suffix=".txt")
scratch.write("kept for now")
scratch.flush()
folder = tempfile.TemporaryDirectory()
inside = Path(folder.name) / "a.txt"
inside.write_text("inside")
nameless = tempfile.TemporaryFile()
nameless.write(b"nowhere")
spool = tempfile.SpooledTemporaryFile(max_size=100)
spool.write(b"small")
""",
        probes="""
scratch.seek(0) or scratch.read()
inside.read_text() if folder else "no folder"
nameless.seek(0) or nameless.read()
spool.seek(0) or spool.read()
Path(folder.name).is_dir()
""",
        unexamined={
            "inside": "its path differs in every run; read by a probe",
            "folder": "as inside",
            "scratch": "read by a probe",
            "nameless": "read by a probe",
            "spool": "read by a probe",
        },
    ),
    State(
        "a database in a file",
        cells="""
import sqlite3
base = sqlite3.connect("shop.db")
base.execute("create table if not exists item (name text, price real)")
base.execute("insert into item values ('nail', 0.1)")
base.commit()
cursor = base.execute("select * from item")
""",
        probes="""
base.execute("select count(*) from item").fetchone()
cursor.fetchone()
""",
        unexamined={"base": "probed by a query", "cursor": "probed by a row"},
    ),
    State(
        "a database in memory, with functions and an open transaction",
        cells="""
import sqlite3
base = sqlite3.connect(":memory:")
base.row_factory = sqlite3.Row
base.create_function("double", 1, lambda value: 2 * value)
base.executescript("create table t (a); insert into t values (1), (2), (3);")
base.execute("insert into t values (4)")
""",
        probes="""
[tuple(row) for row in base.execute("select double(a) from t")]
base.in_transaction
base.rollback() or base.execute("select count(*) as n from t").fetchone()["n"]
""",
        unexamined={"base": "probed by queries"},
    ),
    State(
        "an HDF5 file that is open",
        needs=("h5py", "numpy"),
        cells="""
import h5py
import numpy as np
store = h5py.File("data.h5", "w")
temperatures = store.create_dataset("t", data=np.arange(100.0), chunks=True, maxshape=(None,))
temperatures.attrs["unit"] = "K"
group = store.create_group("g")
store.flush()
""",
        probes="""
temperatures[3], temperatures.attrs["unit"]
temperatures.__setitem__(3, -1.0) or store["t"][3]
group.name, store.mode
""",
    ),
    State(
        "an HDF5 file in memory only",
        needs=("h5py",),
        cells="""
import h5py
store = h5py.File("nowhere.h5", "w", driver="core", backing_store=False)
store["x"] = [1, 2, 3]
numbers = store["x"]
""",
        probes="""
numbers[:].tolist()
store["x"] == numbers
""",
    ),
    State(
        "logging into a file and into a list",
        cells="""
import logging

class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []
    def emit(self, record):
        self.lines.append(self.format(record))

kept = Kept()
kept.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
log = logging.getLogger("study")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(kept)
to_file = logging.FileHandler("study.log")
log.addHandler(to_file)
log.info("started")
""",
        probes="""
log is logging.getLogger("study")
log.info("again") or kept.lines
len(log.handlers), log.handlers[0] is kept
logging.getLogger("study").getEffectiveLevel(), logging.getLogger("study").propagate
open("study.log").read()
""",
        unexamined={
            "to_file": "probed by what the file says",
            "log": "probed by logging",
            "kept": "probed by its lines",
        },
    ),
)
