"""Widgets of ipywidgets: an object here, its views in the browser, and a comm between the two, known by its id.

The object travels with its traits, observers and handlers. It arrives without a comm; once everything is there, it is
given one of the same id, of which the browser is told nothing: it has it already. So a slider that is shown goes on
working. All widgets travel, for what is shown need not have a name.
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

from . import carriers
from .diagnosis import lost_among, refuses
from .graph import PROTOCOL, CannotTravel, Grapher, Reduction, descent
from .history import roots, shell_of
from .refusals import Lost
from .walk import Walk

_WIDGET, _CONTROL = "jupyter.widget", "jupyter.widget.control"
ON_DISPLAY = "widgets on display"
Widgets = dict[str, Any]
"""By their models' ids, which are those of their comms."""


def _module() -> Any:
    """Where ipywidgets (8) keeps them, if it is loaded."""
    return sys.modules.get("ipywidgets.widgets.widget")


def alive() -> Widgets:
    """All that have a comm."""
    return dict(getattr(_module(), "_instances", {}))


def travelling(home: dict[str, Any]) -> Widgets:
    lost = {each.name for each in _lost(home, alive())}
    return {id: widget for id, widget in alive().items() if _title(id, widget) not in lost}  # noqa: A001


def comms(home: dict[str, Any]) -> set[str]:
    """The ids of those that have their other end here again after a move."""
    return {*travelling(home), _control()} - {""}


def stranded(home: dict[str, Any]) -> list[Lost]:
    """Those that can't travel, and that no name leads to."""
    found = alive()
    lost = _lost(home, found)
    if not lost:
        return []
    walk, met = Walk(home), set[int]()
    named = {id(each) for root in roots(home).values() for each in walk.reach(root, 0, met)}
    titles = {_title(key, widget) for key, widget in found.items() if id(widget) not in named}
    return [each for each in lost if each.name in titles]


def _lost(home: dict[str, Any], found: Widgets) -> list[Lost]:
    refusal = refuses(home, found) if found else None
    if refusal is None:
        return []
    titled = {_title(id, widget): widget for id, widget in found.items()}  # noqa: A001
    return lost_among(home, titled, next(iter(titled)), refusal)


def _title(id: str, widget: Any) -> str:  # noqa: A002
    return f"{type(widget).__name__} on display ({id[:8]})"


# ── objects with traits ──────────────────────────────────────────────────────────────────────────────────────


@descent("traitlets.traitlets.HasTraits")
def reduce_traits(graph: Grapher, value: Any) -> Reduction:
    """With the observers that it was given, which traitlets would leave behind without a word."""
    if _reduces_itself(type(value)):
        return NotImplemented
    make, arguments, state, *_ = value.__reduce_ex__(PROTOCOL)
    return make, arguments, (state, _observers(value)), None, None, fill_traits


def _reduces_itself(kind: type) -> bool:
    return isinstance(kind.__reduce__, FunctionType) or isinstance(kind.__reduce_ex__, FunctionType)


def _observers(value: Any) -> dict[Any, Any]:
    """Trait -> kind of notification -> who is told, without those that the class brings along."""
    classes_own = sys.modules["traitlets"].EventHandler
    told = {
        name: {
            kind: [each for each in observers if not isinstance(each, classes_own)] for kind, observers in of.items()
        }
        for name, of in value._trait_notifiers.items()
    }
    return {name: kinds for name, of in told.items() if (kinds := {kind: each for kind, each in of.items() if each})}


def fill_traits(made: Any, state: tuple[dict[str, Any], dict[Any, Any]]) -> None:
    made.__setstate__(state[0])
    for name, kinds in state[1].items():
        for kind, observers in kinds.items():
            made._trait_notifiers.setdefault(name, {}).setdefault(kind, []).extend(observers)


@descent("ipywidgets.widgets.widget.Widget")
def reduce_widget(graph: Grapher, widget: Any) -> Reduction:
    if not hasattr(_module(), "_instances"):
        raise CannotTravel(widget, "a widget of an ipywidgets older than 8")
    if _reduces_itself(type(widget)):
        raise CannotTravel(widget, "a widget with its own idea of how it is pickled, which leaves its comm behind")
    make, arguments, (state, observers), *rest = reduce_traits(graph, widget)
    state["_trait_values"].pop("comm", None)
    return make, arguments, (state, observers), *rest


@descent("comm.base_comm.BaseComm")
def reduce_comm(graph: Grapher, comm: Any) -> Reduction:
    raise CannotTravel(comm, "a comm, which its other end in the browser knows")


# ── comms ────────────────────────────────────────────────────────────────────────────────────────────────────


def _control() -> str:
    """The id of the comm by which a browser asks for all widgets, "" if none does."""
    comm = getattr(getattr(_module(), "Widget", None), "_control_comm", None)
    return str(comm.comm_id) if comm else ""


def _take_widgets(namespace: dict[str, Any]) -> Any:
    found = travelling(namespace)
    return {"widgets": found, "control": _control()} if found or _control() else None


def _give_widgets(namespace: dict[str, Any], state: dict[str, Any]) -> None:
    for widget in alive().values():  # of an earlier visit: the browser's views are those of the ones that have come
        _silence(widget)
    for id, widget in state["widgets"].items():  # noqa: A001
        widget.comm = _comm(namespace, _WIDGET, id)
    if state["control"]:
        comm = _comm(namespace, _CONTROL, state["control"])
        version = _module().__control_protocol_version__
        _module().Widget.handle_control_comm_opened(comm, {"metadata": {"version": version}})


def _comm(namespace: dict[str, Any], target: str, id: str) -> Any:  # noqa: A002
    """This end of one that is open."""
    kinds = sys.modules["comm"]
    comm = kinds.create_comm(target_name=target, comm_id=id, primary=False)
    if getattr(comm, "kernel", comm) is None:  # it learns of it when it opens itself, and until then says nothing
        comm.kernel = getattr(shell_of(namespace), "kernel", None)
    kinds.get_comm_manager().register_comm(comm)
    return comm


def _silence(widget: Any) -> None:
    """Without closing its comm, at which the browser would take its views away."""
    comm = widget._trait_values.pop("comm", None)
    if comm is not None:
        comm._closed = True
        sys.modules["comm"].get_comm_manager().comms.pop(comm.comm_id, None)
        _module()._instances.pop(comm.comm_id, None)


carriers.carriers[ON_DISPLAY] = carriers.Carrier(ON_DISPLAY, "ipywidgets.widgets.widget", _take_widgets, _give_widgets)
