"""What surrounds the names: settings of modules, history, environment, folder, extensions."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "how NumPy prints and treats errors",
        needs=("numpy",),
        cells="""
import numpy as np
np.set_printoptions(precision=3, suppress=True, linewidth=60)
old = np.seterr(divide="raise", under="ignore")
""",
        probes="""
np.get_printoptions()["precision"], np.get_printoptions()["suppress"], np.get_printoptions()["linewidth"]
np.geterr()
np.array([1 / 3, 1e-12]).__repr__()
np.float64(1) / np.float64(0)
""",
    ),
    State(
        "pandas options",
        needs=("pandas",),
        cells="""
import pandas as pd
pd.set_option("display.max_rows", 7, "display.precision", 2)
pd.options.mode.string_storage = "python"
pd.options.display.float_format = "{:.1f}".format
table = pd.DataFrame({"x": [1 / 3] * 10})
""",
        probes="""
pd.get_option("display.max_rows"), pd.get_option("display.precision")
pd.get_option("mode.string_storage")
repr(table)
""",
    ),
    State(
        "filters of warnings",
        cells="""
import warnings
warnings.filterwarnings("ignore", message="old way", category=DeprecationWarning)
warnings.simplefilter("error", UserWarning)
def warn():
    warnings.warn("careful", UserWarning)
    return "went on"
""",
        probes="""
[(action, pattern and pattern.pattern, kind.__name__) for action, pattern, kind, _, _ in warnings.filters[:2]]
warn()
""",
    ),
    State(
        "levels of logging",
        cells="""
import logging
logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger("noisy.library").setLevel(logging.ERROR)
logging.addLevelName(25, "NOTICE")
logging.disable(logging.INFO)
""",
        probes="""
logging.getLogger().level
logging.getLogger("noisy.library").level
logging.getLevelName(25)
logging.root.manager.disable
""",
    ),
    State(
        "the context of decimals",
        cells="""
import decimal
from decimal import Decimal, getcontext
getcontext().prec = 50
getcontext().rounding = decimal.ROUND_DOWN
decimal.getcontext().traps[decimal.Inexact] = False
third = Decimal(1) / Decimal(3)
""",
        probes="""
getcontext().prec, getcontext().rounding
Decimal(2) / Decimal(3)
decimal.getcontext().traps[decimal.DivisionByZero]
""",
    ),
    State(
        "the locale",
        cells="""
import locale
locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
chosen = locale.setlocale(locale.LC_TIME, "C.UTF-8")
""",
        probes="""
locale.setlocale(locale.LC_TIME)
locale.setlocale(locale.LC_NUMERIC)
""",
    ),
    State(
        "matplotlib's settings",
        needs=("matplotlib",),
        cells="""
import matplotlib.pyplot as plt
plt.rcParams["figure.figsize"] = [3, 2]
plt.rcParams.update({"lines.linewidth": 4, "axes.grid": True})
plt.style.use("ggplot")
""",
        probes="""
plt.rcParams["figure.figsize"], plt.rcParams["lines.linewidth"]
plt.rcParams["axes.facecolor"]
plt.figure().get_size_inches().tolist()
""",
    ),
    State(
        "torch's settings",
        needs=("torch",),
        cells="""
import torch
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=2)
torch.manual_seed(11)
torch.set_grad_enabled(False)
""",
        probes="""
torch.ones(1).dtype
repr(torch.tensor([1 / 3]))
torch.rand(2).tolist()
torch.is_grad_enabled()
""",
    ),
    State(
        "polars' and scikit-learn's settings",
        needs=("polars", "sklearn"),
        cells="""
import polars as pl
import sklearn
pl.Config.set_tbl_rows(3)
pl.Config.set_fmt_str_lengths(7)
sklearn.set_config(transform_output="pandas", display="text")
table = pl.DataFrame({"n": range(10)})
""",
        probes="""
repr(table)
sklearn.get_config()["transform_output"], sklearn.get_config()["display"]
""",
    ),
    State(
        "history: In, Out and the count of cells",
        cells="""
6 * 7
# %%
answer = _ + 1
# %%
[answer]
""",
        probes="""
In[1], In[2], len(In)
Out[1], Out[3]
Out[3][0] == answer
get_ipython().execution_count
_, __
_i, _ii
_1, _i1
""",
    ),
    State(
        "an output that is also a name",
        cells="""
table = {"rows": [1, 2]}
table
# %%
Out[1]["rows"].append(3)
""",
        probes="""
Out[1] is table
_1 is table
table["rows"].append(4) or Out[1]["rows"]
""",
    ),
    State(
        "environment, folder and path",
        cells="""
import os, sys
from pathlib import Path
os.environ["API_MODE"] = "test"
os.environ.pop("LANG_OF_NOBODY", None)
Path("sub/deeper").mkdir(parents=True, exist_ok=True)
Path("sub/deeper/note.txt").write_text("found")
os.chdir("sub")
sys.path.append("/opt/tools/of/mine")
os.umask(0o077)
sys.setrecursionlimit(4321)
""",
        probes="""
os.environ.get("API_MODE")
Path("deeper/note.txt").read_text()
Path.cwd().name
"/opt/tools/of/mine" in sys.path
sys.getrecursionlimit()
[os.umask(0o077)]
""",
    ),
    State(
        "magics, extensions and aliases",
        cells="""
%load_ext autoreload
%autoreload 2
%precision 3
# %%
from IPython.core.magic import register_line_magic
@register_line_magic
def shout(line):
    return line.upper()
# %%
%alias lsl ls -l
%config InteractiveShell.ast_node_interactivity = "all"
""",
        probes="""
"autoreload" in get_ipython().extension_manager.loaded
get_ipython().run_line_magic("shout", "hello")
get_ipython().ast_node_interactivity
get_ipython().display_formatter.formatters["text/plain"].float_precision
get_ipython().magics_manager.magics["line"].get("lsl") is not None
""",
        unexamined={"shout": "probed as a magic"},
    ),
    State(
        "hooks of the shell and formatters of one's own",
        cells="""
from IPython import get_ipython
ran = []
def after(result):
    ran.append("cell")
get_ipython().events.register("post_run_cell", after)

class Money:
    def __init__(self, amount):
        self.amount = amount
plain = get_ipython().display_formatter.formatters["text/plain"]
plain.for_type(Money, lambda money, printer, cycle: printer.text(f"{money.amount} EUR"))
purse = Money(5)
""",
        probes="""
after in get_ipython().events.callbacks["post_run_cell"]
get_ipython().display_formatter.format(purse)[0]["text/plain"]
""",
        unexamined={"plain": "a part of the shell; probed by what it formats", "ran": "grows with every cell"},
    ),
    State(
        "settings of the interpreter itself",
        cells="""
import gc, sys, socket, csv, random
gc.set_threshold(5000, 20, 20)
gc.disable()
socket.setdefaulttimeout(12)
sys.set_int_max_str_digits(9000)
csv.register_dialect("pipes", delimiter="|")
csv.field_size_limit(500_000)
""",
        probes="""
gc.isenabled(), gc.get_threshold()
socket.getdefaulttimeout()
sys.get_int_max_str_digits()
"pipes" in csv.list_dialects(), csv.field_size_limit()
""",
    ),
    State(
        "standard streams and hooks that were replaced",
        cells="""
import builtins, copyreg, io, sys
kept = io.StringIO()
real = sys.stderr
sys.stderr = kept
print("to the side", file=sys.stderr)
builtins.shortcut = lambda: "seen everywhere"

class Legacy:
    def __init__(self, n): self.n = n
copyreg.pickle(Legacy, lambda legacy: (Legacy, (legacy.n,)))
legacy = Legacy(3)
""",
        probes="""
sys.stderr is kept
kept.getvalue()
shortcut()
legacy.n, Legacy in copyreg.dispatch_table
""",
        unexamined={"real": "a stream of the process itself"},
    ),
)
