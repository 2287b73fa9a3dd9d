"""Formulas and graphs: sympy, networkx."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "sympy: formulas and their assumptions",
        needs=("sympy",),
        cells="""
import sympy as sp
x, y = sp.symbols("x y", positive=True)
n = sp.Symbol("n", integer=True)
wave = sp.Function("f")(x)
area = sp.integrate(sp.exp(-x**2), (x, 0, sp.oo))
equation = sp.Eq(wave.diff(x, 2) + wave, 0)
solved = sp.dsolve(equation)
matrix = sp.Matrix([[1, x], [y, 2]])
fast = sp.lambdify((x, y), sp.sin(x) * y)
""",
        probes="""
sp.sqrt(x**2) == x
x is sp.Symbol("x", positive=True)
(area.evalf(30), str(solved))
matrix.det().subs({x: 2, y: 3})
fast(1.0, 2.0)
(wave + x).has(x), n.is_integer
""",
    ),
    State(
        "sympy: placeholders and functions that know each other",
        needs=("sympy",),
        cells="""
import sympy as sp
blank, other = sp.Dummy("k"), sp.Dummy("k")
total = blank + 2 * other
f = sp.Function("f")
wave = f(sp.Symbol("t"))
same = f
""",
        probes="""
total.has(blank), total.coeff(other), blank == other
total.subs({blank: 1, other: 2})
same is f, wave.func == f
""",
        unexamined={
            "blank": "a Dummy's number is its own; probed in total",
            "other": "as blank",
            "total": "as blank",
            "f": "a class made by a call; probed by wave",
            "same": "as f",
        },
    ),
    State(
        "networkx graphs with data",
        needs=("networkx",),
        cells="""
import networkx as nx
roads = nx.DiGraph(name="roads")
roads.add_edge("Ulm", "Jena", km=310)
roads.add_edge("Jena", "Kiel", km=480)
roads.nodes["Ulm"]["people"] = [1, 2]
neighbours = roads.adj["Ulm"]
only = roads.subgraph(["Ulm", "Jena"])
karate = nx.karate_club_graph()
rank = nx.pagerank(karate)
""",
        probes="""
nx.shortest_path_length(roads, "Ulm", "Kiel", weight="km")
roads.add_edge("Ulm", "Bonn", km=1) or sorted(neighbours)
sorted(only.nodes), roads.name
karate.degree[0], max(rank, key=rank.get)
""",
        unexamined={"neighbours": "a view; probed by an addition", "only": "a view; probed by its nodes"},
    ),
)
