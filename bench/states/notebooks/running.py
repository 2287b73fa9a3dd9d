"""Things that run: generators, coroutines, threads, locks, processes, sockets, and what hangs on their lives."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "a generator half way",
        cells="""
def fibonacci():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b

numbers = fibonacci()
seen = [next(numbers) for _ in range(6)]
# %%
squares = (n * n for n in range(10))
fresh = fibonacci()
""",
        probes="""
next(numbers), next(numbers)
next(squares), list(squares)
next(fresh)
""",
        unexamined=dict.fromkeys(("numbers", "squares", "fresh"), "probed by what it yields"),
    ),
    State(
        "a generator that others send to",
        cells="""
def averager():
    total = count = 0
    average = None
    while True:
        average_of = yield average
        total, count = total + average_of, count + 1
        average = total / count

mean = averager()
next(mean)
first = mean.send(10)
holder = {"running": mean}
""",
        probes="""
mean.send(20)
holder["running"] is mean
""",
        unexamined={"mean": "it wants to be sent something; probed so", "holder": "probed for its alias"},
    ),
    State(
        "coroutines, tasks and a loop of one's own",
        cells="""
import asyncio
results = []

async def work(n):
    await asyncio.sleep(0)
    results.append(n)
    return n

loop = asyncio.new_event_loop()
task = loop.create_task(work(1))
waiting = work(2)
event = asyncio.Event()
finished = loop.run_until_complete(work(3))
""",
        probes="""
loop.run_until_complete(asyncio.gather(task, loop.create_task(waiting))), results
loop.is_closed()
event.is_set()
""",
        unexamined={
            "loop": "probed by running it",
            "task": "probed by awaiting it",
            "waiting": "probed by awaiting it",
            "event": "probed",
        },
    ),
    State(
        "a thread that goes on counting",
        cells="""
import threading, time
ticks = []
stop = threading.Event()

def count():
    while not stop.wait(0.001):
        ticks.append(1)

def more_soon(worker):
    before = len(ticks)
    time.sleep(0.2)
    return len(ticks) > before

worker = threading.Thread(target=count, name="counter", daemon=True)
worker.start()
""",
        probes="""
worker.is_alive(), worker.name
more_soon(worker)
stop.set() or worker.join(5) or worker.is_alive()
""",
        unexamined={"ticks": "it grows as it likes; probed for growing", "worker": "probed for being alive"},
    ),
    State(
        "locks, queues and semaphores",
        cells="""
import queue, threading
lock, held, again = threading.Lock(), threading.Lock(), threading.RLock()
held.acquire()
slots = threading.Semaphore(2)
slots.acquire()
jobs = queue.Queue()
jobs.put("one"), jobs.put("two")
ready = threading.Event()
ready.set()
gate = threading.Condition()
private = threading.local()
private.value = 5

class Safe:
    def __init__(self):
        self.lock, self.value = threading.Lock(), 3

safe = Safe()
""",
        probes="""
lock.locked(), held.locked()
jobs.get_nowait(), jobs.qsize()
ready.is_set(), slots.acquire(blocking=False), slots.acquire(blocking=False)
private.value
safe.value, safe.lock.acquire(blocking=False)
gate.acquire(blocking=False)
again.acquire(blocking=False)
""",
        unexamined=dict.fromkeys(("lock", "held", "again", "slots", "jobs", "gate", "private", "safe"), "probed"),
    ),
    State(
        "a pool that has work to do",
        cells="""
from concurrent.futures import ThreadPoolExecutor
import time
pool = ThreadPoolExecutor(2)
done = pool.submit(pow, 2, 10)
done.result()
later = pool.submit(lambda: time.sleep(0.2) or "late")
""",
        probes="""
done.result(timeout=0)
later.result(timeout=5)
pool.submit(pow, 3, 2).result(timeout=5)
""",
        unexamined={"pool": "probed by more work", "later": "probed by its result", "done": "probed by its result"},
    ),
    State(
        "context variables",
        cells="""
import contextvars
user = contextvars.ContextVar("user", default="nobody")
token = user.set("Ada")
kept = contextvars.copy_context()
request = contextvars.ContextVar("request")
""",
        probes="""
user.get()
kept[user] if user in kept else "not in it"
request.get("none")
user.reset(token) or user.get()
""",
        unexamined={"token": "probed by the reset", "kept": "probed by a look-up"},
    ),
    State(
        "a pair of sockets",
        cells="""
import socket
left, right = socket.socketpair()
left.sendall(b"under way")
config = {"host": "db", "conn": left}
""",
        probes="""
right.recv(9)
config["conn"] is left
config["host"]
left.sendall(b"more") or right.recv(4)
""",
        unexamined={"left": "probed by sending", "right": "probed by receiving", "config": "probed by its parts"},
    ),
    State(
        "a subprocess that answers",
        cells="""
import subprocess, sys
echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
ended = subprocess.run(["echo", "hello"], capture_output=True, text=True)
""",
        probes="""
ended.stdout, ended.returncode
echo.poll()
(echo.stdin.write("ping\\n"), echo.stdin.flush(), echo.stdout.readline())[2]
""",
        unexamined={"echo": "probed by an answer"},
    ),
    State(
        "weak references",
        cells="""
import weakref

class Picture:
    def __init__(self, name):
        self.name = name

sunset = Picture("sunset")
link = weakref.ref(sunset)
dead = weakref.ref(Picture("gone"))
cache = weakref.WeakValueDictionary(sunset=sunset)
notes = weakref.WeakKeyDictionary({sunset: "nice"})
seen = weakref.WeakSet([sunset])
proxy = weakref.proxy(sunset)
""",
        probes="""
link() is sunset
dead() is None
cache["sunset"] is sunset and notes[sunset] == "nice" and sunset in seen
proxy.name
len(cache), len(notes), len(seen)
""",
        unexamined={"proxy": "it looks like what it stands for; probed"},
    ),
    State(
        "finalizers, exit handlers and signal handlers",
        cells="""
import atexit, signal, weakref
said = []

class Resource: ...

resource = Resource()
finalizer = weakref.finalize(resource, said.append, "gone")

def goodbye():
    said.append("bye")

atexit.register(goodbye)

def on_signal(number, frame):
    said.append(number)

previous = signal.signal(signal.SIGUSR1, on_signal)
""",
        probes="""
finalizer.alive
signal.raise_signal(signal.SIGUSR1) if signal.getsignal(signal.SIGUSR1) is on_signal else "not handled"
finalizer() or said
""",
        unexamined={
            "finalizer": "probed by calling it",
            "resource": "it has nothing but its finalizer",
            "previous": "what was before",
        },
    ),
    State(
        "ctypes: structures, pointers, a callback",
        cells="""
import ctypes

class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]

point = Point(3, 4.5)
numbers = (ctypes.c_int * 4)(1, 2, 3, 4)
pointer = ctypes.pointer(point)
libc = ctypes.CDLL(None)
""",
        probes="""
point.x, point.y
list(numbers)
pointer.contents.y
setattr(point, "x", 9) or pointer.contents.x
libc.abs(-5)
""",
        unexamined=dict.fromkeys(("point", "numbers", "pointer", "libc"), "probed"),
    ),
    State(
        "a frame and a traceback that were kept",
        cells="""
import sys

def fails(secret):
    raise ValueError(secret)

try:
    fails("x")
except ValueError as error:
    kind, problem, trace = sys.exc_info()

def where():
    return sys._getframe()

frame = where()
""",
        probes="""
problem.args
trace.tb_next.tb_frame.f_locals["secret"]
frame.f_code.co_name
""",
        unexamined=dict.fromkeys(("trace", "frame", "problem"), "probed"),
    ),
)
