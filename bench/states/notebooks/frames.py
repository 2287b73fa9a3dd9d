"""Tables: pandas, polars, pyarrow."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "a pandas frame of every type",
        needs=("pandas",),
        cells="""
import numpy as np
import pandas as pd
table = pd.DataFrame({
    "whole": [1, 2, 3],
    "real": [0.5, np.nan, 2.5],
    "text": ["a", None, "ü"],
    "kind": pd.Categorical(["low", "high", "low"], categories=["low", "high"], ordered=True),
    "when": pd.to_datetime(["2024-01-01", "2024-06-01", None]).tz_localize("Europe/Berlin"),
    "maybe": pd.array([1, None, 3], dtype="Int64"),
    "lasting": pd.to_timedelta([1, 2, 3], unit="h"),
    "thing": [{"a": 1}, [2], (3,)],
}, index=pd.Index(["x", "y", "z"], name="key"))
table.attrs["source"] = "made by hand"
# %%
months = pd.Series(range(4), index=pd.period_range("2024-01", periods=4, freq="M"), name="sold")
spans = pd.Series(pd.interval_range(0, 3))
""",
        probes="""
table.loc["x", "kind"] < table.loc["y", "kind"]
table.attrs
table["maybe"].sum(), str(table["when"].dtype)
""",
    ),
    State(
        "a pandas frame with levels, and what groups it",
        needs=("pandas",),
        cells="""
import numpy as np
import pandas as pd
rng = np.random.default_rng(1)
index = pd.MultiIndex.from_product([["a", "b"], range(50)], names=["group", "n"])
sales = pd.DataFrame({"x": rng.normal(size=100), "y": rng.integers(0, 9, 100)}, index=index)
wide = sales["x"].unstack()
by_group = sales.groupby("group")
rolling = sales["x"].rolling(5)
styled = sales.head(3).style.format(precision=1)
""",
        probes="""
by_group["y"].sum().to_dict()
rolling.mean().iloc[10]
sales.loc[("a", 3), "x"]
styled.data.shape
""",
        unexamined={"by_group": "examined by a sum", "rolling": "examined by a mean", "styled": "a way to show sales"},
    ),
    State(
        "frames that share their columns",
        needs=("pandas",),
        cells="""
import numpy as np
import pandas as pd
values = np.arange(10.0)
table = pd.DataFrame({"v": values}, copy=False)
same = table
part = table["v"]
tables = {"one": table, "again": table}
""",
        probes="""
same is table and tables["again"] is table
table.insert(1, "w", 2.0) or list(tables["one"].columns)
part.sum()
""",
    ),
    State(
        "a pandas subclass with metadata",
        needs=("pandas",),
        cells="""
import pandas as pd

class Measured(pd.DataFrame):
    _metadata = ["unit"]
    @property
    def _constructor(self):
        return Measured
    def total(self):
        return f"{self.sum().sum()} {self.unit}"

rain = Measured({"mm": [1.0, 2.5]})
rain.unit = "mm"
""",
        probes="""
rain.unit
rain.total()
type(rain.head(1)) is Measured
""",
    ),
    State(
        "polars frames, eager and lazy",
        needs=("polars",),
        cells="""
import polars as pl
from datetime import date
films = pl.DataFrame({
    "title": ["M", "Metropolis", None], "year": [1931, 1927, 2000], "stars": [[5, 4], [5], []],
    "seen": [date(2020, 1, 1), None, date(2021, 5, 5)],
}).with_columns(pl.col("title").cast(pl.Categorical).alias("kind"))
query = films.lazy().filter(pl.col("year") < 1950).select(pl.col("title").str.to_uppercase())
years = films["year"]
old = pl.col("year") < 1930
""",
        probes="""
films.filter(old)["title"].to_list()
query.collect()["title"].to_list()
films.schema["kind"]
years.mean()
""",
        unexamined={"old": "an expression; examined by what it filters"},
    ),
    State(
        "arrow tables",
        needs=("pyarrow",),
        cells="""
import pyarrow as pa
import pyarrow.compute as pc
table = pa.table({"n": pa.array([1, None, 3], pa.int32()), "s": ["a", "b", "c"], "l": [[1], [], None]})
words = pa.array(["x", "y", "x"]).dictionary_encode()
part = table.slice(1, 2)
buffer = pa.py_buffer(b"abc")
schema = table.schema.with_metadata({"origin": "here"})
""",
        probes="""
table.validate(full=True)
pc.sum(table["n"]).as_py()
part.to_pylist(), words.to_pylist()
schema.metadata
""",
    ),
    State(
        "a frame on arrow's memory",
        needs=("pandas", "pyarrow"),
        cells="""
import pandas as pd
table = pd.DataFrame({"n": [1, 2, None], "s": ["a", None, "c"]}).convert_dtypes(dtype_backend="pyarrow")
""",
        probes="""
table.dtypes.astype(str).to_dict()
table["n"].sum(), table["s"].str.upper().to_list()
""",
    ),
)
