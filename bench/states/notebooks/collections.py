"""Values of the standard library, and how they hang together: aliases, cycles, containers that depend on hashes."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "numbers, texts and dates",
        cells="""
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from uuid import UUID
import re
# %%
count, share, phase, big = 42, 0.1 + 0.2, 3 + 4j, 2**4096 + 1
nothing, truth, rest = None, True, ...
infinite, nan = float("inf"), float("nan")
name, lone = "Grüße ☃", "\\udc80"
raw, growing = bytes(range(256)), bytearray(b"abc")
# %%
price, third = Decimal("19.90"), Fraction(1, 3)
start = datetime(2024, 2, 29, 12, 30, tzinfo=timezone(timedelta(hours=2), "CEST"))
day, pause = date(1999, 12, 31), timedelta(days=1, microseconds=5)
folder, key = Path("data/raw"), UUID(int=7)
word = re.compile(r"(?P<head>\\w+)-(\\d+)", re.IGNORECASE)
steps, part = range(10, 0, -3), slice(1, None, 2)
""",
        probes="""
start + pause
word.match("Run-17").groupdict()
nan != nan
""",
    ),
    State(
        "containers of collections",
        cells="""
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from types import MappingProxyType, SimpleNamespace
# %%
Point = namedtuple("Point", "x y", defaults=[0])
here = Point(3)
letters = Counter("mississippi")
groups = defaultdict(list, even=[2, 4])
last = deque([1, 2, 3], maxlen=3)
order = OrderedDict(b=1, a=2)
settings = ChainMap({"colour": "red"}, {"colour": "blue", "size": 3})
options = SimpleNamespace(depth=3, names=["a"])
fixed = MappingProxyType({"pi": 3.14})
""",
        probes="""
groups["odd"]
last.append(4) or list(last)
here._replace(y=9)
here.__class__ is Point
settings["colour"], settings["size"]
letters.most_common(2)
""",
    ),
    State(
        "aliases across names",
        cells="""
row = [0, 0, 0]
grid = [row] * 3
config = {"rows": grid, "first": row}
# %%
def first():
    return row
# %%
pair = (row, config)
""",
        probes="""
grid[0] is grid[1] is row
config["first"] is row
config["rows"] is grid
pair[0] is row and pair[1] is config
first() is row
row.append(7) or (grid[2], config["first"], first())
""",
    ),
    State(
        "cycles",
        cells="""
class Node:
    def __init__(self, name, parent=None):
        self.name, self.parent, self.children = name, parent, []
        if parent:
            parent.children.append(self)

root = Node("root")
leaf = Node("leaf", Node("branch", root))
# %%
ring = [1]
ring.append(ring)
knot = {}
knot["self"] = (knot, [knot])
""",
        probes="""
leaf.parent.parent is root
root.children[0].children[0] is leaf
ring[1] is ring
knot["self"][0] is knot and knot["self"][1][0] is knot
type(leaf) is Node
""",
    ),
    State(
        "a cycle through a set and a dict's keys",
        cells="""
class Town:
    def __init__(self, name):
        self.name, self.near = name, set()
    def __hash__(self):
        return hash(self.name)
    def __eq__(self, other):
        return isinstance(other, Town) and self.name == other.name

ulm, jena = Town("Ulm"), Town("Jena")
distance = {(ulm, jena): 310, ulm: 0}
towns = frozenset([ulm, jena])
""",
        probes="""
distance[(ulm, jena)], distance[ulm]
ulm in towns and Town("Jena") in towns
len(towns)
""",
    ),
    State(
        "towns that lie near each other, in sets of themselves",
        cells="""
class Town:
    def __init__(self, name):
        self.name, self.near = name, set()
    def __hash__(self):
        return hash(self.name)

ulm, jena = Town("Ulm"), Town("Jena")
ulm.near.add(jena)
jena.near.add(ulm)
""",
        probes="""
jena in ulm.near and ulm in jena.near
next(iter(ulm.near)) is jena
sorted(town.name for town in jena.near)
""",
    ),
    State(
        "a list nested a thousand deep",
        cells="""
deep = []
for level in range(1000):
    deep = [deep, level]

def depth(part):
    count = 0
    while part:
        part, count = part[0], count + 1
    return count
""",
        probes="""
depth(deep)
deep[1], deep[0][1], deep[0][0][0][1]
""",
        unexamined={"deep": "as deep as this, its portrait can't be drawn; the probes look into it"},
    ),
    State(
        "a big graph of aliases",
        cells="""
import random
chance = random.Random(7)
people = [{"id": number, "friends": [], "tags": []} for number in range(20_000)]
tags = [["tag", number] for number in range(50)]
for person in people:
    person["friends"] = [people[chance.randrange(20_000)] for _ in range(5)]
    person["tags"] = [tags[chance.randrange(50)] for _ in range(3)]
first = people[0]
""",
        probes="""
first is people[0]
sum(friend is people[friend["id"]] for person in people for friend in person["friends"])
len({id(tag) for person in people for tag in person["tags"]})
hash(tuple(friend["id"] for person in people for friend in person["friends"]))
tags[0].append("touched") or sum("touched" in tag for person in people for tag in person["tags"])
chance.random()
""",
        unexamined={
            "people": "a graph of 20,000 people deep; the probes sum over all of it",
            "first": "leads into people",
            "person": "leads into people",
        },
    ),
    State(
        "subclasses of built-in types",
        cells="""
class Vector(list):
    def __init__(self, *parts, unit="m"):
        super().__init__(parts)
        self.unit = unit

class Record(dict):
    __getattr__ = dict.__getitem__

class Celsius(float):
    scale = "C"

class Label(str):
    def __new__(cls, text, colour):
        self = super().__new__(cls, text)
        self.colour = colour
        return self

class Missing(dict):
    def __missing__(self, key):
        return f"no {key}"
# %%
force = Vector(1, 2, unit="N")
person = Record(name="Ada")
warm, red = Celsius(21.5), Label("stop", "red")
empty = Missing(a=1)
""",
        probes="""
force.unit, list(force)
person.name
warm.scale, warm + 1
red.colour, red.upper()
empty["b"]
""",
    ),
    State(
        "exceptions that were kept",
        cells="""
class Overdrawn(Exception):
    def __init__(self, account, missing):
        super().__init__(account)
        self.missing = missing

try:
    try:
        {}["nobody"]
    except KeyError as error:
        raise Overdrawn("nobody", missing=30) from error
except Overdrawn as error:
    error.add_note("on Friday")
    kept = error
# %%
both = ExceptionGroup("two", [ValueError("a"), OSError(2, "gone", "x.txt")])
""",
        probes="""
kept.missing, kept.args, kept.__notes__
type(kept.__cause__)
kept.__traceback__ is not None
both.exceptions[1].filename
""",
    ),
    State(
        "C iterators half way",
        cells="""
import itertools
# %%
counting = itertools.count(10, 5)
turns = itertools.cycle("abc")
pairs = zip([1, 2, 3], "xyz")
numbered = enumerate(["a", "b", "c"], start=7)
squares = map(pow, [1, 2, 3, 4], [2, 2, 2, 2])
chain = itertools.chain([1, 2], [3, 4])
backwards = reversed([1, 2, 3])
items = iter([10, 20, 30])
first = [next(it) for it in (counting, turns, pairs, numbered, squares, chain, backwards, items)]
""",
        probes="""
next(counting), next(turns), next(pairs)
next(numbered), next(squares), next(chain), next(backwards), next(items)
list(pairs), list(chain), list(items)
""",
        unexamined=dict.fromkeys(
            ("counting", "turns", "pairs", "numbered", "squares", "chain", "backwards", "items"),
            "probed by what it yields",
        ),
    ),
    State(
        "two names for one iterator",
        cells="""
lines = iter(["header", "a,1", "b,2", "c,3"])
header = next(lines)
parser = (lines, "csv")
left, right = [iter(range(6))] * 2
pairs = zip(left, right)
one = next(pairs)
""",
        probes="""
parser[0] is lines
left is right
next(lines), next(parser[0])
next(pairs), next(pairs)
""",
        unexamined=dict.fromkeys(("lines", "parser", "left", "right", "pairs"), "probed by what it yields"),
    ),
    State(
        "iterators over dicts and sets",
        cells="""
stock = {"apples": 3, "pears": 5, "plums": 7}
waiting = iter(stock.items())
first = next(waiting)
keys, values = stock.keys(), stock.values()
""",
        probes="""
next(waiting)
stock.__setitem__("figs", 1) or list(keys)
sum(values)
""",
        unexamined={"waiting": "probed; it ends with the first change of the dict"},
    ),
)
