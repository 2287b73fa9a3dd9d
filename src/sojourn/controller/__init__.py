"""The controller: the one control plane.

    serve        the program: listens, writes its card, ends on SIGTERM
    app, routes  HTTP API and watchers' WebSocket
    port         HTTP and the relay share it; relay: a way to nodes that can't be dialled; splice: of two connections
    agents       the agents' WebSocket
    controller   the parts put together
    reconciler   event -> law (`sojourn.lifecycle`) -> database, instructions, watchers
    moves        plans a move, begins it, waits for it; fitness: whether and how a session can travel
    images       which node has which, and how one gets to where it is needed
    sleep        the same for suspend, resume, checkpoint, restore, fork; activity: who is in the middle of a cell
    checkpoints  finds, verifies and drops checkpoints; kept: which may go; vaults: the store, and what opens it
    roster       the nodes; places: addresses, tickets and passes to the store
    verbs        what a program may ask through its rider; questions: what agents are asked
    tokens       who may talk to it; body_limit: how much

It may be killed at any moment: every step is in the database before anybody is told, and agents that return are told
again.
"""

from sojourn.controller.controller import Controller
from sojourn.controller.serve import Options, serve

__all__ = ["Controller", "Options", "serve"]
