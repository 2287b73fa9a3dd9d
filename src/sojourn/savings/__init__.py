"""What suspending sessions saves: a trace of people's work, replayed through the controller's policies, with prices.

`habits` makes a trace for whoever has none, `replay` runs one under a `regime`, `report` compares them, `plots` draws.
"""

from sojourn.savings.fleet import Terms
from sojourn.savings.habits import Habits, invent
from sojourn.savings.prices import NodeKind, Prices, read_prices
from sojourn.savings.regimes import AlwaysOn, Cull, Policies, Regime
from sojourn.savings.replay import Outcome, Setting, replay
from sojourn.savings.report import Comparison, Sensitivity, compare, vary
from sojourn.savings.times import Times, read_times
from sojourn.savings.trace import Event, read_trace, write_trace

__all__ = [
    "AlwaysOn",
    "Comparison",
    "Cull",
    "Event",
    "Habits",
    "NodeKind",
    "Outcome",
    "Policies",
    "Prices",
    "Regime",
    "Sensitivity",
    "Setting",
    "Terms",
    "Times",
    "compare",
    "invent",
    "read_prices",
    "read_times",
    "read_trace",
    "replay",
    "vary",
    "write_trace",
]
