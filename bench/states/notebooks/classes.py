"""Classes of the notebook, in all the shapes they come in."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "dataclasses",
        cells="""
from dataclasses import dataclass, field, replace

@dataclass(order=True)
class Item:
    price: float
    name: str = field(compare=False)
    tags: list[str] = field(default_factory=list, repr=False)

@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    row: int
    column: int = 0

cheap, dear = Item(1.5, "nail", ["iron"]), Item(99.0, "saw")
spot = Place(row=3)
shelf = {spot: cheap}
""",
        probes="""
cheap < dear, repr(cheap)
shelf[Place(row=3)] is cheap
replace(spot, column=7)
setattr(spot, "row", 4)
Item(2.0, "x").tags is Item(2.0, "x").tags
type(cheap) is Item and type(spot) is Place
""",
    ),
    State(
        "enums",
        cells="""
from enum import Enum, Flag, IntEnum, StrEnum, auto

class Colour(Enum):
    RED = "r"
    BLUE = "b"
    CRIMSON = "r"
    @property
    def title(self):
        return self.name.title()

class Right(Flag):
    READ = auto()
    WRITE = auto()

class Level(IntEnum):
    LOW = 1
    HIGH = 2

class Mood(StrEnum):
    GOOD = auto()

favourite, rights, level = Colour.RED, Right.READ | Right.WRITE, Level.HIGH
chosen = {Colour.BLUE: [Level.LOW], "mood": Mood.GOOD}
""",
        probes="""
favourite is Colour.RED and Colour("r") is favourite and Colour.CRIMSON is favourite
favourite.title, list(Colour)
Right.WRITE in rights, rights is Right(3)
level > Level.LOW, chosen["mood"] == "good"
next(iter(chosen)) is Colour.BLUE
isinstance(favourite, Colour)
""",
    ),
    State(
        "abstract classes and registration",
        cells="""
from abc import ABC, abstractmethod
from collections.abc import Sized

class Shape(ABC):
    @abstractmethod
    def area(self): ...
    @property
    def double(self):
        return 2 * self.area()

class Square(Shape):
    def __init__(self, side):
        self.side = side
    def area(self):
        return self.side**2

class Foreign: ...
Shape.register(Foreign)

class Bag:
    def __len__(self):
        return 3

square, foreign, bag = Square(3), Foreign(), Bag()
""",
        probes="""
square.area(), square.double
isinstance(square, Shape), isinstance(foreign, Shape), isinstance(bag, Sized)
Shape()
sorted(Shape.__abstractmethods__)
""",
    ),
    State(
        "metaclasses and __init_subclass__",
        cells="""
class Registered(type):
    known = {}
    def __new__(mcs, name, bases, body, **options):
        cls = super().__new__(mcs, name, bases, body)
        mcs.known[name] = cls
        cls.options = options
        return cls
    def __len__(cls):
        return len(cls.known)

class Plugin(metaclass=Registered): ...
class Reader(Plugin, speed=3): ...

class Base:
    children = []
    def __init_subclass__(cls, /, key=None, **rest):
        super().__init_subclass__(**rest)
        cls.key = key
        Base.children.append(cls)

class Child(Base, key="c"): ...
reader = Reader()
""",
        probes="""
type(Reader) is Registered
Registered.known["Reader"] is Reader
sorted(Registered.known), len(Plugin), Reader.options
Base.children == [Child], Child.key
type(reader) is Reader
""",
    ),
    State(
        "a class that was defined again after instances were made",
        cells="""
class Robot:
    version = 1
    def speak(self):
        return "beep"

old = Robot()
# %%
class Robot:
    version = 2
    def speak(self):
        return "hello"

new = Robot()
""",
        probes="""
old.speak(), new.speak()
type(new) is Robot, type(old) is Robot, isinstance(old, Robot)
old.version, new.version
type(old).__name__
""",
    ),
    State(
        "inheritance, super and class methods",
        cells="""
class Animal:
    count = 0
    def __init__(self, name):
        self.name = name
        type(self).count += 1
    @classmethod
    def named(cls, name):
        return cls(name)
    @staticmethod
    def kingdom():
        return "animalia"
    def speak(self):
        return f"{self.name} makes a sound"

class Loud:
    def speak(self):
        return super().speak().upper()

class Dog(Loud, Animal):
    def speak(self):
        return super().speak() + "!"

rex = Dog.named("Rex")
speak = rex.speak
""",
        probes="""
rex.speak(), speak()
Dog.count, Dog.__mro__ == (Dog, Loud, Animal, object)
Dog.named("Bo").count
speak.__self__ is rex
rex.kingdom()
""",
    ),
    State(
        "slots, properties and descriptors",
        cells="""
class Positive:
    def __set_name__(self, owner, name):
        self.name = "_" + name
    def __get__(self, obj, owner=None):
        return self if obj is None else getattr(obj, self.name)
    def __set__(self, obj, value):
        if value <= 0:
            raise ValueError(f"{value} is not positive")
        setattr(obj, self.name, value)

class Box:
    __slots__ = ("_width", "label")
    width = Positive()
    def __init__(self, width):
        self.width = width
    @property
    def double(self):
        return 2 * self.width
    @double.setter
    def double(self, value):
        self.width = value / 2

box = Box(3)
box.double = 10
""",
        probes="""
box.width, box.double
setattr(box, "width", -1)
hasattr(box, "label"), hasattr(box, "__dict__")
Box.width.name
""",
    ),
    State(
        "generics, protocols and typed dicts",
        cells="""
from typing import Generic, NamedTuple, NewType, Protocol, TypedDict, TypeVar, runtime_checkable

T = TypeVar("T")

class Stack(Generic[T]):
    def __init__(self):
        self.items: list[T] = []
    def push(self, item: T):
        self.items.append(item)

@runtime_checkable
class Closable(Protocol):
    def close(self): ...

class Movie(TypedDict, total=False):
    title: str

class Pair(NamedTuple):
    left: int
    right: str = "r"

Identity = NewType("Identity", int)
numbers = Stack[int]()
numbers.push(3)
movie: Movie = {"title": "M"}
pair, maybe, key = Pair(1), dict[str, int] | None, Identity(5)
""",
        probes="""
numbers.items, numbers.__orig_class__ == Stack[int]
isinstance(open("/dev/null"), Closable), isinstance(pair, Closable)
pair.right, Pair.__annotations__
Movie.__annotations__, Movie.__total__
maybe == (dict[str, int] | None)
Stack.__parameters__ == (T,)
""",
        unexamined={
            "T": "a TypeVar's name is all there is, which a probe compares",
            "Identity": "examined by what it makes",
        },
    ),
    State(
        "objects that say how they are pickled",
        cells="""
class Lazy:
    def __init__(self, source):
        self.source, self.cache = source, {"big": 1}
    def __getstate__(self):
        return {"source": self.source}
    def __setstate__(self, state):
        self.__dict__.update(state, cache={})

class Money:
    def __init__(self, amount):
        self.amount = amount
    def __reduce__(self):
        return Money, (self.amount,)

class Singleton:
    _one = None
    def __new__(cls):
        cls._one = cls._one or super().__new__(cls)
        return cls._one

lazy, money, single = Lazy("s"), Money(5), Singleton()
purse = [money, money]
""",
        probes="""
lazy.source
purse[0] is purse[1] is money
Singleton() is single and Singleton._one is single
""",
        unexamined={"lazy": "it says itself that its cache does not travel"},
    ),
    State(
        "instances made without a name for their class",
        cells="""
def make(name):
    class Local:
        kind = name
        def shout(self):
            return self.kind.upper() + __class__.__name__
    return Local

cat, dog = make("cat")(), make("dog")()
Dynamic = type("Dynamic", (dict,), {"total": lambda self: sum(self.values())})
dynamic = Dynamic(a=1, b=2)
""",
        probes="""
cat.shout(), dog.shout()
type(cat) is type(dog), type(cat).__qualname__
dynamic.total()
isinstance(dynamic, Dynamic)
""",
    ),
    State(
        "operators, contexts and callables",
        cells="""
class Polynomial:
    def __init__(self, *factors):
        self.factors = factors
    def __call__(self, x):
        return sum(f * x**n for n, f in enumerate(self.factors))
    def __add__(self, other):
        return Polynomial(*(a + b for a, b in zip(self.factors, other.factors)))
    def __getitem__(self, n):
        return self.factors[n]
    def __eq__(self, other):
        return self.factors == other.factors
    def __enter__(self):
        return self
    def __exit__(self, *_):
        return True

p, q = Polynomial(1, 2), Polynomial(3, 4)
both = p + q
""",
        probes="""
both(2), both[1], both == Polynomial(4, 6)
hash(p)
p.__enter__() is p
""",
    ),
)
