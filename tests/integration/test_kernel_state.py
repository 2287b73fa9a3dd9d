"""What clients find again when a namespace has gone into another kernel: real kernels, and a file between them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from sojourn.testing import execute

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CELLS = [
    """
import functools, ipywidgets, traitlets
seen = []
slider, text, button = ipywidgets.IntSlider(value=3), ipywidgets.IntText(), ipywidgets.Button()
slider.observe(lambda change: seen.append(change["new"]), "value")
link = ipywidgets.link((slider, "value"), (text, "value"))
button.on_click(lambda _: seen.append("click"))
box = ipywidgets.VBox([slider, button])
""",
    """
@ipywidgets.interact(x=5)
def unnamed(x):
    seen.append(("unnamed", x))
""",
    """
stuck = ipywidgets.IntText()
stuck.observe(functools.partial(print, (n for n in [1])), "value")
ipywidgets.IntProgress().observe(functools.partial(print, (n for n in [1])), "value")
""",
    """
from comm import create_comm
create_comm(target_name="of somebody's own").comm_id
""",
    """
from IPython.core.magic import Magics, line_magic, magics_class, register_line_magic
@register_line_magic
def hello(line):
    return f"hello {line}"
@magics_class
class Own(Magics):
    @line_magic
    def own(self, line):
        return line.upper()
get_ipython().register_magics(Own)
class Sixes:
    def __call__(self, lines):
        return [line.replace("SIX", "6") for line in lines]
get_ipython().input_transformers_post.append(Sixes())
get_ipython().set_custom_exc((KeyError,), lambda shell, kind, value, traceback, tb_offset=None: seen.append("no key"))
get_ipython().kernel.debugger.breakpoint_list["/somewhere/file.py"] = [{"line": 3}]
""",
]
TAKE = """
def _taken(path):
    import json
    from sojourn.objects import capture, kernel_state
    kernel = get_ipython().kernel
    state, captured = kernel_state.take(kernel), capture(get_ipython().user_ns)
    with open(path, "wb") as file:
        captured.write(file)
    del captured.components
    return json.dumps([state, [[lost.name, lost.why] for lost in captured.lost]])
print(_taken({path!r}))
"""
GIVE = """
def _given(path, state):
    import json
    from sojourn.objects import kernel_state, restore
    with open(path, "rb") as file:
        restored = restore(file, get_ipython().user_ns)
    return json.dumps([*restored.notes, *kernel_state.give(get_ipython().kernel, state)])
print(_given({path!r}, {state!r}))
"""


class Kernel:
    def __init__(self, folder: Path) -> None:
        self._process = KernelManager()
        folder.mkdir()
        self._process.start_kernel(cwd=str(folder), env={**os.environ, "IPYTHONDIR": str(folder / "ipython")})
        self.client: BlockingKernelClient = self._process.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> str:
        return execute(self.client, code, timeout=30)

    def ask(self, kind: str, channel: str = "control", **content: Any) -> dict[str, Any]:
        through = getattr(self.client, f"{channel}_channel")
        asked = self.client.session.msg(kind, content)
        through.send(asked)
        while True:
            answer: dict[str, Any] = through.get_msg(timeout=10)
            if answer["parent_header"]["msg_id"] == asked["header"]["msg_id"]:
                return answer

    def close(self) -> None:
        self.client.stop_channels()
        self._process.shutdown_kernel(now=True)


class Moved:
    def __init__(self, folder: Path) -> None:
        self.source, self.target = Kernel(folder / "a"), Kernel(folder / "b")
        for cell in CELLS:
            self.source.run(cell)
        self.subshell = self.source.ask("create_subshell_request")["content"]["subshell_id"]
        self.slider = self.source.run("print(slider.model_id)").strip()
        path = str(folder / "stream")
        state, self.lost = json.loads(self.source.run(TAKE.format(path=path)))
        self.closed = state["comms_closed"]
        self.notes = json.loads(self.target.run(GIVE.format(path=path, state=state)))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    pytest.importorskip("ipywidgets")
    found = Moved(tmp_path_factory.mktemp("kernels"))
    yield found
    found.source.close()
    found.target.close()


def test_it_is_the_same_kernel_in_the_headers(moved: Moved) -> None:
    headers = [kernel.ask("kernel_info_request", "shell")["header"] for kernel in (moved.source, moved.target)]
    assert headers[0]["session"] == headers[1]["session"]


def test_a_slider_that_is_shown_goes_on_working(moved: Moved) -> None:
    update = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    message = moved.target.client.session.msg("comm_msg", {"comm_id": moved.slider, "data": update})
    moved.target.client.shell_channel.send(message)
    assert moved.target.run("print(slider.value, text.value, seen[-1], box.children[0] is slider)") == "7 7 7 True"
    moved.target.run("button.click()")
    assert moved.target.run("print(seen[-1])") == "click"


def test_what_cells_set_is_told_to_the_views_under_the_same_id(moved: Moved) -> None:
    client = moved.target.client
    asked = client.execute("slider.value = 11")
    told = []
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "comm_msg":
            told.append((message["content"]["comm_id"], message["content"]["data"]["state"]))
        if message["content"].get("execution_state") == "idle":
            break
    assert (moved.slider, {"value": 11}) in told
    client.get_shell_msg(timeout=10)


def test_a_widget_without_a_name_travels_too(moved: Moved) -> None:
    moved.target.run(
        "[each] = [w for w in ipywidgets.widgets.widget._instances.values() if type(w) is ipywidgets.interactive]"
    )
    moved.target.run("each.children[0].value = 9")
    assert moved.target.run("print(seen[-1])") == "('unnamed', 9)"


def test_widgets_that_can_not_travel_are_told_of(moved: Moved) -> None:
    lost = dict(moved.lost)
    assert lost.keys() - {"stuck"} == {name for name in lost if name.startswith("IntProgress on display")}
    assert len(lost) == 2
    assert all("a running generator" in why for why in lost.values())


def test_other_comms_are_named_so_that_they_are_closed(moved: Moved) -> None:
    assert moved.source.run("print(len(get_ipython().kernel.comm_manager.comms))") != "0"
    own = moved.source.run("print(Out[4])").strip()
    assert own in moved.closed
    assert moved.slider not in moved.closed
    assert moved.source.run("print(stuck.model_id)").strip() in moved.closed


def test_subshells_have_their_ids(moved: Moved) -> None:
    assert moved.target.ask("list_subshell_request")["content"]["subshell_id"] == [moved.subshell]
    message = moved.target.client.session.msg("kernel_info_request", {})
    message["header"]["subshell_id"] = moved.subshell
    moved.target.client.shell_channel.send(message)
    assert moved.target.client.get_shell_msg(timeout=10)["content"]["status"] == "ok"


def test_magics_transformers_and_handlers_of_cells_go_on(moved: Moved) -> None:
    assert moved.target.run("print(get_ipython().run_line_magic('hello', 'you'), SIX)") == "hello you 6"
    assert moved.target.run("print(get_ipython().run_line_magic('own', 'you'))") == "YOU"
    with suppress(RuntimeError):
        moved.target.run("{}[1]")
    assert moved.target.run("print(seen[-1])") == "no key"


def test_history_goes_on(moved: Moved) -> None:
    target, ranged = moved.target, {"output": False, "raw": True, "hist_access_type": "range", "session": 0}
    first = target.ask("history_request", "shell", **ranged, start=1, stop=3)["content"]["history"]
    assert [(number, source) for _, number, source in first] == [(1, CELLS[0].rstrip("\n")), (2, CELLS[1].rstrip("\n"))]
    target.run("marked = 1")
    deadline = time.monotonic() + 10
    while "marked = 1" not in (tail := _tail(target)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tail[:2] == [CELLS[0].rstrip("\n"), CELLS[1].rstrip("\n")]
    assert "marked = 1" in tail


def _tail(kernel: Kernel) -> list[str]:
    tail = {"output": False, "raw": True, "hist_access_type": "tail", "n": 100}
    return [source for _, _, source in kernel.ask("history_request", "shell", **tail)["content"]["history"]]


def test_breakpoints_are_listed_and_their_loss_told(moved: Moved) -> None:
    assert "the debugger was switched off, and with it 1 breakpoints: switch it on again" in moved.notes
    asked: dict[str, Any] = {"type": "request", "seq": 1, "command": "debugInfo"}
    listed = moved.target.ask("debug_request", **asked)["content"]["body"]["breakpoints"]
    assert listed == [{"source": "/somewhere/file.py", "breakpoints": [{"line": 3}]}]
