"""Functions as notebooks have them: they see what is assigned later, share cells, remember, and know each other."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "a function that reads what is assigned later",
        cells="""
rate = 0.19

def gross(net):
    "What is to be paid."
    return net * (1 + rate)
# %%
def bill(*nets, currency="€"):
    return f"{sum(map(gross, nets)):.2f} {currency}"
""",
        probes="""
bill(10, 20)
globals().update(rate=0.07) or bill(10, 20)
globals().update(gross=lambda net: 0) or bill(10)
gross.__globals__ is globals()
""",
    ),
    State(
        "functions that call each other",
        cells="""
def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)
""",
        probes="""
even(10), odd(10), factorial(20)
globals().update(odd=lambda n: "replaced") or even(3)
""",
    ),
    State(
        "closures that share a cell",
        cells="""
def account(balance):
    def pay(amount):
        nonlocal balance
        balance += amount
        return balance
    def show():
        return balance
    return pay, show

pay, show = account(100)
late = [lambda: number for number in range(3)]
pay(20)
""",
        probes="""
show()
pay(5), show()
pay.__closure__[0] is show.__closure__[0]
[each() for each in late]
""",
    ),
    State(
        "closures three deep",
        cells="""
def outer(a):
    trail = []
    def middle(b):
        def inner(c):
            trail.append((a, b, c))
            return a + b + c, trail
        return inner
    return middle

add = outer(1)
add_more = add(10)
total, trail = add_more(100)
""",
        probes="""
add_more(1000)[0]
add_more(5)[1] is trail
add(0)(0)[1] is trail
len(trail)
""",
    ),
    State(
        "decorators with state",
        cells="""
import functools

def counted(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        wrapper.calls += 1
        return function(*args, **kwargs)
    wrapper.calls = 0
    return wrapper

registry = {}
def register(name):
    def keep(function):
        registry[name] = function
        return function
    return keep

@register("greet")
@counted
def greet(name, punctuation="!"):
    "Say hello."
    return f"Hello {name}{punctuation}"

greet("Ada"), greet("Bob")
""",
        probes="""
greet.calls
greet("Eve"), greet.calls
registry["greet"] is greet
greet.__wrapped__.__name__, greet.__doc__, greet.__module__
""",
    ),
    State(
        "lru_cache with its entries",
        cells="""
from functools import cached_property, lru_cache

calls = []

@lru_cache(maxsize=100)
def slow(n):
    calls.append(n)
    return n * n

class Circle:
    def __init__(self, radius):
        self.radius = radius
    @cached_property
    def area(self):
        calls.append("area")
        return 3.14 * self.radius**2

circle = Circle(2)
slow(3), slow(4), slow(3), circle.area
""",
        probes="""
circle.area, len(calls)
slow.cache_info()
slow(4), len(calls)
slow(9), calls
""",
    ),
    State(
        "partials, methods and dispatch",
        cells="""
from functools import partial, reduce, singledispatch
import operator

@singledispatch
def show(value):
    return f"<{value}>"

@show.register
def _(value: list):
    return [show(item) for item in value]

@show.register(int)
def show_number(value):
    return f"#{value}"

# %%
power_of_two = partial(pow, 2)
product = partial(reduce, operator.mul)
append = [1, 2].append
upper = str.upper
pick = operator.itemgetter("a", "b")
far = operator.attrgetter("real")
""",
        probes="""
show([1, "x", [2]])
power_of_two(10), product([1, 2, 3, 4])
append(3) or append.__self__
upper("abc"), pick({"a": 1, "b": 2}), far(3.5)
""",
    ),
    State(
        "defaults, annotations and keywords",
        cells="""
from typing import Optional
shared = []

def collect(item, into=shared, *, limit: int = 3, tag: Optional[str] = None) -> list:
    into.append(item)
    return into[-limit:]

collect.author = "Ada"
square = lambda x, /, n=2: x**n
def loose(a, *rest, **more): return a, rest, more
""",
        probes="""
collect("a") == shared
collect.__defaults__[0] is shared
collect.__kwdefaults__, collect.__annotations__, collect.author
collect.__qualname__, collect.__code__.co_varnames
square(5), loose(1, 2, x=3)
__import__("inspect").signature(collect).parameters.keys()
__import__("inspect").getsource(collect)
""",
    ),
    State(
        "a function of a module that was written in the notebook",
        cells="""
import types
tools = types.ModuleType("tools", "Made here.")
exec("factor = 3\\ndef scale(x):\\n    return factor * x", tools.__dict__)
scale = tools.scale
""",
        probes="""
scale(5)
setattr(tools, "factor", 10) or scale(5)
scale.__globals__ is tools.__dict__
tools.__doc__
""",
    ),
    State(
        "a module that was loaded from a file beside the notebook",
        cells="""
from pathlib import Path
import sys
Path("lib").mkdir(exist_ok=True)
Path("lib/greetings_of_mine.py").write_text('''
count = 0
def hello():
    global count
    count += 1
    return f"hello {count}"
''')
sys.path.insert(0, "lib")
import greetings_of_mine
from greetings_of_mine import hello
# %%
hello(), hello()
""",
        probes="""
greetings_of_mine.count
hello()
hello is greetings_of_mine.hello
sys.path[0]
""",
    ),
    State(
        "a patched module",
        cells="""
import json, math, string
original = json.dumps
def loud(value, **options):
    return original(value, **options).upper()
json.dumps = loud
math.tau2 = 2 * math.tau
string.Template.delimiter = "%"
""",
        probes="""
json.dumps({"a": "b"})
json.dumps is loud
math.tau2
string.Template("%x").substitute(x=1)
original({"a": 1})
""",
    ),
    State(
        "a library's class with a method of one's own",
        needs=("pandas",),
        cells="""
import pandas as pd

def brief(self, rows=1):
    return self.head(rows).to_dict("records")

pd.DataFrame.brief = brief
table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
""",
        probes="""
table.brief()
pd.DataFrame.brief is brief
""",
    ),
)
