"""What no pickle can carry goes on after a live move."""

from __future__ import annotations

from typing import Any

import pytest

import sojourn
from sojourn.testing import execute, session_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

STATES = {
    "generator": (
        "def f():\n    for n in range(9):\n        yield n\ng = f(); next(g), next(g)",
        "next(g)",
        "2",
    ),
    "thread": (
        "import threading, time\nticks = []\ndef tick():\n    while True:\n        ticks.append(1); time.sleep(0.01)\n"
        "threading.Thread(target=tick, daemon=True).start()",
        "before = len(ticks); time.sleep(0.3); len(ticks) > before + 5",
        "True",
    ),
    "open file": (
        "f = open('/tmp/state.txt', 'w+'); f.write('one '); f.flush()",
        "f.write('two'); f.seek(0); f.read()",
        "'one two'",
    ),
    "appended and unlinked file": (
        "import os\nf = open('/tmp/gone.txt', 'a+'); f.write('one '); f.flush(); os.unlink('/tmp/gone.txt')",
        "f.write('two'); f.flush(); f.seek(0); f.read()",
        "'one two'",
    ),
    "sqlite": (
        "import sqlite3\ndb = sqlite3.connect('/tmp/s.db'); db.execute('create table t(x)'); db.commit()\n"
        "db.execute('insert into t values (7)')",
        "db.commit(); db.execute('select x from t').fetchall()",
        "[(7,)]",
    ),
    "held lock": (
        "import threading\nlock = threading.Lock(); lock.acquire()\nwaited = []\n"
        "def wait():\n    lock.acquire(); waited.append('got it')\n"
        "t = threading.Thread(target=wait); t.start()",
        "lock.release(); t.join(5); waited",
        "['got it']",
    ),
    "subprocess": (
        "import subprocess\np = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)",
        "p.communicate('still here', timeout=10)[0]",
        "'still here'",
    ),
    "asyncio task": (
        "import asyncio\nsteps = []\nasync def walk():\n    while True:\n        steps.append(1); await asyncio.sleep(0.01)\n"
        "task = asyncio.get_running_loop().create_task(walk())",
        "n = len(steps)\nawait asyncio.sleep(0.3)\nlen(steps) > n and not task.done()",
        "True",
    ),
    "C extension": (
        "import numpy as np\nrng = np.random.default_rng(7); first = rng.random(3)\n"
        "it = np.nditer(np.arange(6)); next(it), next(it)",
        "int(next(it)), bool(np.random.default_rng(7).random(4)[3] == rng.random())",
        "(2, True)",
    ),
    "half-drawn figure": (
        "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots(); ax.plot([1, 2])",
        "ax.plot([3, 4]); fig.savefig('/tmp/f.png'); len(ax.lines)",
        "2",
    ),
    "pandas frame": (
        "import pandas as pd\nframe = pd.DataFrame({'a': [1, 2, 3]}); groups = iter(frame.groupby('a')); next(groups)",
        "int(next(groups)[0]), int(frame.a.sum())",
        "(2, 6)",
    ),
    "ipywidgets": (
        "import ipywidgets\nslider = ipywidgets.IntSlider(value=3); seen = []\n"
        "slider.observe(lambda change: seen.append(change['new']), 'value')",
        "slider.value = 9; seen, slider.comm is not None",
        "([9], True)",
    ),
    "torch model": (
        "import torch\ntorch.manual_seed(0); model = torch.nn.Linear(4, 1)\n"
        "optimizer = torch.optim.Adam(model.parameters()); x = torch.ones(8, 4)\n"
        "def step():\n    optimizer.zero_grad(); loss = (model(x) ** 2).mean(); loss.backward(); optimizer.step(); return loss.item()\n"
        "first = step()",
        "step() < first",
        "True",
    ),
    "shared memory": (
        "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True, size=10); s.buf[:3] = b'abc'",
        "value = bytes(s.buf[:3]); s.close(); s.unlink(); value",
        "b'abc'",
    ),
    "forked children": (
        "import multiprocessing as mp\npool = mp.get_context('fork').Pool(2); pool.map(abs, [-1])",
        "result = pool.map(abs, [-2, -3]); pool.terminate(); result",
        "[2, 3]",
    ),
}
NEEDS = {
    "torch model": "torch",
    "pandas frame": "pandas",
    "half-drawn figure": "matplotlib",
    "ipywidgets": "ipywidgets",
}


@pytest.mark.parametrize("strategy", ["lazy", "copy"])
@pytest.mark.parametrize("state", STATES)
def test_goes_on(sojourner: sojourn.Client, kernel: tuple[Any, Any], state: str, strategy: str) -> None:
    if state in NEEDS:
        pytest.importorskip(NEEDS[state])
    manager, client = kernel
    before, after, expected = STATES[state]
    session = session_of(manager)
    execute(client, before)
    there = "there" if sojourner.session(session).node == "here" else "here"
    sojourner.move(session, there, strategy=strategy, wait="thawed")
    assert execute(client, after).splitlines()[-1] == expected
    assert sojourner.session(session).node == there
