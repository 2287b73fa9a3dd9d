"""From one interpreter into another: the only honest test of what is defined in `__main__`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SOURCE = Path(__file__).resolve().parents[2] / "src"

DEFINED = """
import abc, collections, dataclasses, decimal, enum, functools, logging
import os, random, sys, types, typing, warnings, weakref
import numpy as np

@dataclasses.dataclass
class Point:
    x: int
    tags: list = dataclasses.field(default_factory=list)
    def shown(self): return super().__repr__()
old = Point(1)

@dataclasses.dataclass(slots=True, frozen=True)
class Point:
    x: int
    y: int = 2
new = Point(1)

class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1
    def lower(self): return self.name.lower()
class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
red, both = Colour.RED, Right.READ | Right.WRITE

class Shape(abc.ABC):
    known = {}
    def __init_subclass__(cls, tag, **rest): cls.known[tag] = cls
    @abc.abstractmethod
    def area(self): ...
class Square(Shape, tag="square"):
    def area(self): return 4
class Registered: pass
Shape.register(Registered)

class Meta(type):
    def __new__(meta, name, bases, body, unit): return super().__new__(meta, name, bases, {**body, "unit": unit})
    def __init__(cls, name, bases, body, unit): super().__init__(name, bases, body)
class Measured(metaclass=Meta, unit="m"): pass

Item = typing.TypeVar("Item")
class Box(typing.Generic[Item]):
    def __init__(self, item: Item): self.item = item
box = Box[int](3)
Pair = collections.namedtuple("Pair", "left right")
pair = Pair(1, 2)

k = 5
@functools.lru_cache(maxsize=7)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def logged(function):
    @functools.wraps(function)
    def wrapper(*arguments: int, **named: str) -> int:
        return function(*arguments) + k
    return wrapper
@logged
def twice(n): return 2 * n
partial = functools.partial(twice, 10)
module = types.ModuleType("made"); exec("factor = 3\\ndef scale(n): return n * factor", vars(module))
scale = module.scale
weak = weakref.ref(old)
keys = module.__dict__ and {"a": 1}.keys()
label = open("notes.txt", "w+"); label.write("hello world"); label.seek(6)

random.seed(7); np.random.seed(7); rng = np.random.default_rng(3); rng.random()
np.set_printoptions(precision=3); np.seterr(divide="ignore"); decimal.getcontext().prec = 9
logging.getLogger("mine").setLevel(15); warnings.filterwarnings("ignore", message="tiresome")
os.environ["FLAVOUR"] = "sour"; os.environ.pop("HOME", None); sys.path.insert(0, os.getcwd())
expected = random.Random(7).random()
"""

EXAMINED = """
assert type(old) is not Point is type(new) and old == type(old)(1) and "Point object at" in old.shown()
assert new == Point(1, 2) and not hasattr(new, "__dict__")
assert red is Colour.RED is Colour.CRIMSON and red.lower() == "red" and Colour(1) is red
assert Planet.EARTH.mass == 5.9 and both == Right.READ | Right.WRITE
assert Shape.known == {"square": Square} and Square().area() == 4 and isinstance(Registered(), Shape)
try: Shape()
except TypeError: pass
else: raise AssertionError("abstract")
assert Measured.unit == "m" and type(Measured) is Meta
assert box.item == 3 and Box.__parameters__ == (Item,) and Box[int].__origin__ is Box
assert pair == Pair(1, 2) and pair.left == 1
assert fib(30) == 832040 and fib.cache_parameters()["maxsize"] == 7
k = 1
assert twice(2) == 5 and partial() == 21 and twice.__doc__ is None and twice.__wrapped__(1) == 2
assert twice.__annotations__ == {} and twice.__globals__ is globals() and twice.__qualname__ == "twice"
module.factor = 10
assert scale(2) == 20 and scale is module.scale
assert weak() is old and list(keys) == ["a"]
assert label.read() == "world" and label.mode == "w+"
assert random.random() == expected and np.random.random() == 0.07630828937395717
again = np.random.default_rng(3); again.random(); assert rng.random() == again.random()
assert np.get_printoptions()["precision"] == 3 and np.geterr()["divide"] == "ignore"
assert decimal.getcontext().prec == 9 and logging.getLogger("mine").level == 15
assert warnings.filters[0][0] == "ignore" and warnings.filters[0][1].pattern == "tiresome"
assert os.environ["FLAVOUR"] == "sour" and "HOME" not in os.environ and sys.path[0] == os.getcwd()
"""

SAVE = """
from sojourn.objects import capture as _capture
_captured = _capture(globals())
assert not _captured.lost, _captured.lost
with open("state", "wb") as _file: _captured.write(_file)
"""
LOAD = """
from sojourn.objects import restore as _restore
with open("state", "rb") as _file: _restored = _restore(_file, globals())
print(_restored.notes)
"""


def run(program: str, folder: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(SOURCE), "HOME": str(folder)},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_all_that_a_cell_can_define_is_there_as_it_was(tmp_path: Path) -> None:
    run(DEFINED + SAVE, tmp_path)
    said = run(LOAD + EXAMINED, tmp_path)
    assert "label: notes.txt is opened again" in said


SHELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
from sojourn.objects import capture, restore
"""


def test_history_outputs_and_changes_to_modules_come_with_it(tmp_path: Path) -> None:
    cells = [
        "import json, xml.dom",
        "def total(self): return sum(self)",
        "import collections; collections.UserList.total = total",
        "[1, 2]",
        "conn = __import__('socket').socket()",
        "def fail(): raise ValueError('there')",
    ]
    save = (
        f"for cell in {cells!r}: shell.run_cell(cell, store_history=True)\n"
        "captured = capture(shell.user_ns)\n"
        "print([str(lost) for lost in captured.lost])\n"
        "with open('state', 'wb') as file: captured.write(file)\n"
    )
    assert "['conn: a socket, created in cell 5']" in run(SHELL + save, tmp_path)
    load = (
        "with open('state', 'rb') as file: restore(file, shell.user_ns)\n"
        "space = shell.user_ns\n"
        "assert space['Out'][4] is space['_4'] is space['_'] == [1, 2], space['Out']\n"
        "assert shell.execution_count == 7 and len(space['In']) == 7 and space['In'][4] == '[1, 2]'\n"
        "import collections, sys, inspect\n"
        "assert collections.UserList([1, 2]).total() == 3 and 'xml.dom' in sys.modules\n"
        "assert inspect.getsource(space['fail']).startswith('def fail')\n"
        "shell.run_cell('fail()', store_history=True)\n"
    )
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", run(SHELL + load, tmp_path))
    assert "def fail(): raise ValueError('there')" in traceback


def test_a_long_chain_is_not_too_deep(tmp_path: Path) -> None:
    chain = "class Link: pass\nfirst = last = Link()\nfor _ in range(20_000): last.next = Link(); last = last.next\n"
    run(chain + SAVE, tmp_path)
    count = "n = 0; each = first\nwhile hasattr(each, 'next'): each = each.next; n += 1\nassert n == 20_000\n"
    run(LOAD + count, tmp_path)
