"""What the controller and its agents say to each other, over the WebSocket that the agent dials.

The controller sends **instructions** (imperative), the agent answers with **events** (past tense). Events are
numbered by the agent's journal and repeated until the controller has acknowledged them, so both sides treat each
one as something that may come twice. Every instruction to a session names it and its incarnation: what speaks of an
older incarnation is ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sojourn.model.base import Word
from sojourn.model.checkpoints import SaveReport, StorePass
from sojourn.model.images import Image
from sojourn.model.moves import EnvironmentLayer, Luggage, MoveReport, Shipment, Strategy
from sojourn.model.nodes import Capabilities, Load
from sojourn.model.resources import Resources
from sojourn.model.sessions import Ground, Inspection, SessionSpec, Sight

PROTOCOL = 4

# ── instructions: controller → agent ─────────────────────────────────────────────────────────────────────────


class StartSandbox(Word):
    do: Literal["start_sandbox"] = "start_sandbox"
    session: str
    incarnation: int
    epoch: int
    spec: SessionSpec


class StopSandbox(Word):
    """Kill the session's processes and remove what was made for it. Right in any state; done twice it is done once."""

    do: Literal["stop_sandbox"] = "stop_sandbox"
    session: str
    incarnation: int


class InspectSession(Word):
    do: Literal["inspect_session"] = "inspect_session"
    request: str
    session: str


class LookAtFolders(Word):
    """See what there is of a session's shared folders (`sandbox/canary.py`), for a move that is only planned."""

    do: Literal["look_at_folders"] = "look_at_folders"
    request: str
    session: str
    folders: tuple[str, ...]
    uid: int
    gid: int
    """With whose rights."""
    of: str
    """The name of the canaries."""
    act: Literal["put", "look", "forget"]
    """At the source: put canaries and look; later, take them away. At the target: look."""


class LookAtLuggage(Word):
    """To the session's node: what of it would travel as objects? Answered between two cells; a kernel that runs one is
    Busy."""

    do: Literal["look_at_luggage"] = "look_at_luggage"
    request: str
    session: str


class LookAtEnvironment(Word):
    """For a move that is only planned between nodes of unlike roots. To the session's node, without `layers`: of which
    layers is its environment? The first time every file is read. To the target: which of these has it not got?"""

    do: Literal["look_at_environment"] = "look_at_environment"
    request: str
    session: str
    layers: tuple[EnvironmentLayer, ...] = ()


class PrepareArrival(Word):
    """To the target: build everything that can be built while the session still runs at the source."""

    do: Literal["prepare_arrival"] = "prepare_arrival"
    move: str
    session: str
    incarnation: int
    """The incarnation the session will have here."""
    epoch: int
    strategy: Strategy
    spec: SessionSpec


class Depart(Word):
    """To the source, once the target is prepared: freeze, send, and keep the frozen session until told what became
    of it. `incarnation` is the one it will have at the target."""

    do: Literal["depart"] = "depart"
    move: str
    session: str
    incarnation: int
    strategy: Strategy
    target: str
    """The target's name, by which the relay knows it."""
    address: str
    """host:port of the target's data port; empty: only the relay leads there."""
    ticket: str
    may_lose: tuple[str, ...] = ()
    """Of a move by objects: names that may stay behind; "*": any that can't travel."""


class CommitMove(Word):
    """To the source: every page has arrived; kill the frozen session and clean up."""

    do: Literal["commit_move"] = "commit_move"
    move: str
    session: str


class RollBackMove(Word):
    """To the source: the session goes on here from the moment of the freeze, under this new incarnation and epoch."""

    do: Literal["roll_back_move"] = "roll_back_move"
    move: str
    session: str
    incarnation: int
    epoch: int


class AbandonArrival(Word):
    """To the target: kill whatever arrived of this move, and clean up."""

    do: Literal["abandon_arrival"] = "abandon_arrival"
    move: str
    session: str


class SaveSession(Word):
    """Write the session's state into the store, as the checkpoint `save`. To the node, a departure without a target:
    `CommitMove` and `RollBackMove` (their `move` is this `save`) end it.

    `keep`: the session goes on by itself as soon as its state is copied; nothing is left to be committed.
    """

    do: Literal["save_session"] = "save_session"
    save: str
    session: str
    incarnation: int
    """The one it has."""
    keep: bool
    store: StorePass


class WakeSession(Word):
    """Bring a checkpoint to life here. To the node, an arrival without a source: it tells SessionThawed,
    FillProgressed, SessionFilled and MoveStumbled (side "target") whose `move` is this `wake`, and `AbandonArrival`
    ends it."""

    do: Literal["wake_session"] = "wake_session"
    wake: str
    session: str
    incarnation: int
    """The one it will have here."""
    epoch: int
    checkpoint: str
    store: StorePass
    spec: SessionSpec


class AnswerVerb(Word):
    """The answer to something a program asked through its rider (`%sojourn …`)."""

    do: Literal["answer_verb"] = "answer_verb"
    session: str
    verb: str
    """The id the rider gave it."""
    ok: bool
    body: dict[str, object] = {}
    """The result, or an error as SojournError.to_wire()."""


class SendLog(Word):
    """Send the tail of what the session's program wrote to stdout and stderr, and the rider's own notes."""

    do: Literal["send_log"] = "send_log"
    request: str
    session: str
    tail_bytes: int = 65536


class SendEnvironment(Word):
    """Bring what a session needs of this node's root to the data port of the node where it is to start."""

    do: Literal["send_environment"] = "send_environment"
    request: str
    spec: SessionSpec
    target: str
    address: str
    """host:port of the target's data port; empty: only the relay leads there."""
    ticket: str
    authority: str = ""
    """As in Place."""


class LookForImages(Word):
    """Say which images there are; with `reference` (a name or an id), only the one that it stands for."""

    do: Literal["look_for_images"] = "look_for_images"
    request: str
    reference: str = ""


class PullImage(Word):
    """Fetch an image from its registry."""

    do: Literal["pull_image"] = "pull_image"
    request: str
    reference: str


class SendImage(Word):
    """Bring an image to another node's data port. That one tells ImageProgressed and ImageFetched; this one only if it
    can't send."""

    do: Literal["send_image"] = "send_image"
    request: str
    image: str
    """Its id."""
    target: str
    address: str
    """host:port of the target's data port; empty: only the relay leads there."""
    ticket: str
    authority: str = ""
    """As in Place."""


class RemoveImage(Word):
    do: Literal["remove_image"] = "remove_image"
    request: str
    reference: str


SessionInstruction = (
    StartSandbox
    | StopSandbox
    | InspectSession
    | LookAtFolders
    | LookAtEnvironment
    | LookAtLuggage
    | PrepareArrival
    | Depart
    | CommitMove
    | RollBackMove
    | AbandonArrival
    | SaveSession
    | WakeSession
    | AnswerVerb
    | SendLog
)
Instruction = Annotated[
    SessionInstruction | SendEnvironment | LookForImages | PullImage | SendImage | RemoveImage,
    Field(discriminator="do"),
]

# ── events: agent → controller ───────────────────────────────────────────────────────────────────────────────


class SandboxStarted(Word):
    event: Literal["sandbox_started"] = "sandbox_started"
    session: str
    incarnation: int
    sandbox: Literal["runc", "process"]


class SandboxFailedToStart(Word):
    event: Literal["sandbox_failed_to_start"] = "sandbox_failed_to_start"
    session: str
    incarnation: int
    error: dict[str, str]


class SandboxStopped(Word):
    event: Literal["sandbox_stopped"] = "sandbox_stopped"
    session: str
    incarnation: int


class SessionDied(Word):
    """The sandbox is gone without having been told to (its rider was killed, the node rebooted)."""

    event: Literal["session_died"] = "session_died"
    session: str
    incarnation: int
    reason: str


class ProgramExited(Word):
    event: Literal["program_exited"] = "program_exited"
    session: str
    incarnation: int
    code: int
    """As subprocess gives it: negative for a signal."""


class SessionInspected(Word):
    event: Literal["session_inspected"] = "session_inspected"
    request: str
    session: str
    inspection: Inspection | None = None
    error: dict[str, str] | None = None


class LuggageSeen(Word):
    event: Literal["luggage_seen"] = "luggage_seen"
    request: str
    session: str
    luggage: Luggage | None = None
    error: dict[str, str] | None = None


class FoldersSeen(Word):
    event: Literal["folders_seen"] = "folders_seen"
    request: str
    session: str
    seen: dict[str, Sight] = {}
    error: dict[str, str] | None = None


class EnvironmentSeen(Word):
    event: Literal["environment_seen"] = "environment_seen"
    request: str
    session: str
    layers: tuple[EnvironmentLayer, ...] = ()
    error: dict[str, str] | None = None


class LogSent(Word):
    event: Literal["log_sent"] = "log_sent"
    request: str
    session: str
    text: str


class ArrivalPrepared(Word):
    event: Literal["arrival_prepared"] = "arrival_prepared"
    move: str
    session: str


class SessionFrozen(Word):
    """From the source."""

    event: Literal["session_frozen"] = "session_frozen"
    move: str
    session: str


class SessionSent(Word):
    """From the source: the target now has all it needs to thaw. From here only the controller may say which of the
    two lives."""

    event: Literal["session_sent"] = "session_sent"
    move: str
    session: str


class SessionThawed(Word):
    """From the target: it runs here."""

    event: Literal["session_thawed"] = "session_thawed"
    move: str
    session: str
    incarnation: int
    report: MoveReport


class EnvironmentSent(Word):
    """It is all there (`ground`), or can't be."""

    event: Literal["environment_sent"] = "environment_sent"
    request: str
    ground: Ground | None = None
    error: dict[str, str] | None = None


class ShipmentProgressed(Word):
    """From the source, while the session runs on: what the target lacks is on its way there."""

    event: Literal["shipment_progressed"] = "shipment_progressed"
    move: str
    session: str
    shipment: Shipment


class FillProgressed(Word):
    event: Literal["fill_progressed"] = "fill_progressed"
    move: str
    session: str
    done_bytes: int
    total_bytes: int


class SessionFilled(Word):
    """From the target: every page has arrived and is confirmed (for `copy`: at once after the thaw)."""

    event: Literal["session_filled"] = "session_filled"
    move: str
    session: str
    incarnation: int
    report: MoveReport


class MoveCommitted(Word):
    """From the source: released."""

    event: Literal["move_committed"] = "move_committed"
    move: str
    session: str


class MoveRolledBack(Word):
    """From the source: the session runs here again."""

    event: Literal["move_rolled_back"] = "move_rolled_back"
    move: str
    session: str
    incarnation: int


class ArrivalAbandoned(Word):
    event: Literal["arrival_abandoned"] = "arrival_abandoned"
    move: str
    session: str


class MoveStumbled(Word):
    """Either side can't go on with a move.

    `resumed`: only ever true from the source, and only when it had not sent everything: the session runs there as if
    nothing had happened, under its old incarnation.
    `scathed`: only from the source, and never together with `resumed`: it has not sent everything, but its programs ran
    for a moment with connections that carry nothing. Nobody is let in until it is rolled back, to a new epoch.
    """

    event: Literal["move_stumbled"] = "move_stumbled"
    move: str
    session: str
    side: Literal["source", "target"]
    resumed: bool
    scathed: bool = False
    error: dict[str, str]


class SessionSaved(Word):
    """From the node of a save: the checkpoint is whole and visible in the store. Unless the session was to be kept, it
    stands frozen, and only the controller may say what becomes of it."""

    event: Literal["session_saved"] = "session_saved"
    save: str
    session: str
    incarnation: int
    report: SaveReport


class VerbAsked(Word):
    """A program in the sandbox asked something through its rider."""

    event: Literal["verb_asked"] = "verb_asked"
    session: str
    incarnation: int
    verb: str
    """An id, unique in the session; asked again after a move until answered."""
    name: str
    """"nodes", "where", "move", "suspend", "checkpoint", "checkpoints", "restore", "fork"."""
    arguments: dict[str, object] = {}


class ImagesFound(Word):
    event: Literal["images_found"] = "images_found"
    request: str
    images: tuple[Image, ...] = ()
    error: dict[str, str] | None = None


class ImageProgressed(Word):
    """From where an image is to be, twice a second: also a sign of life while no byte comes."""

    event: Literal["image_progressed"] = "image_progressed"
    request: str
    done_bytes: int = 0
    total_bytes: int = 0
    """0: not known."""
    step: str = ""
    """What is done just now, in a few words."""


class ImageFetched(Word):
    """It is there now (`image`), or can't be."""

    event: Literal["image_fetched"] = "image_fetched"
    request: str
    image: Image | None = None
    error: dict[str, str] | None = None


class ImageRemoved(Word):
    event: Literal["image_removed"] = "image_removed"
    request: str
    error: dict[str, str] | None = None


Event = Annotated[
    SandboxStarted
    | SandboxFailedToStart
    | SandboxStopped
    | SessionDied
    | ProgramExited
    | SessionInspected
    | FoldersSeen
    | EnvironmentSeen
    | LuggageSeen
    | EnvironmentSent
    | LogSent
    | ArrivalPrepared
    | SessionFrozen
    | SessionSent
    | SessionThawed
    | ShipmentProgressed
    | FillProgressed
    | SessionFilled
    | MoveCommitted
    | MoveRolledBack
    | ArrivalAbandoned
    | MoveStumbled
    | SessionSaved
    | VerbAsked
    | ImagesFound
    | ImageProgressed
    | ImageFetched
    | ImageRemoved,
    Field(discriminator="event"),
]

# ── the envelope ─────────────────────────────────────────────────────────────────────────────────────────────


class Held(Word):
    """One session (or half of a move) that the agent has on its disk when it says hello."""

    session: str
    incarnation: int
    state: Literal["starting", "running", "arriving", "filling", "departing", "departed", "stopping"]
    """departing: frozen or freezing, not everything sent (or saved). departed: everything sent (or saved), frozen,
    waiting for a verdict."""
    move: str | None = None
    """The id of the move, save or wake under way. A save that keeps its session leaves it `running`."""


class Hello(Word):
    """The agent's first message."""

    say: Literal["hello"] = "hello"
    protocol: int
    version: str
    name: str
    labels: tuple[str, ...]
    capacity: Resources
    capabilities: Capabilities
    address: str | None
    held: tuple[Held, ...]
    request: str = ""
    """For a certificate (a PKCS #10 request, PEM)."""


class Welcome(Word):
    """The controller's answer. `key` signs the tickets that clients and peers show at the agent's data port."""

    say: Literal["welcome"] = "welcome"
    node: str
    token: str
    """The node's own token for the next time; the join token may be spent."""
    key: str
    """32 bytes, hexadecimal."""
    heartbeat_seconds: float
    certificate: str = ""
    """What the node is to show to those who dial it (PEM). Another one comes with the next hello."""
    authority: str = ""
    """Who vouches for the controller and all its nodes (PEM); empty: nothing between machines is sealed."""


class Turned(Word):
    """The controller turns the agent away; the connection ends."""

    say: Literal["turned_away"] = "turned_away"
    error: dict[str, str]


class Instruct(Word):
    say: Literal["instruct"] = "instruct"
    instruction: Instruction


class Report(Word):
    say: Literal["report"] = "report"
    number: int
    """Counts up in the agent's journal; 0 for what need not survive (progress, inspections, logs)."""
    event: Event


class Called(Word):
    """Somebody waits at the relay for this node: dial the controller's own port and say `{"sojourn": 1, "call": call}`.
    What comes on that connection then is as if it had come to the data port. Told once; who calls won't wait long."""

    say: Literal["called"] = "called"
    call: str


class Acknowledge(Word):
    """The controller has written down every event up to this number."""

    say: Literal["acknowledge"] = "acknowledge"
    number: int


class Heartbeat(Word):
    say: Literal["heartbeat"] = "heartbeat"
    load: Load


FromAgent = Annotated[Hello | Report | Heartbeat, Field(discriminator="say")]
FromController = Annotated[Welcome | Turned | Instruct | Acknowledge | Called, Field(discriminator="say")]

from_agent: TypeAdapter[Hello | Report | Heartbeat] = TypeAdapter(FromAgent)
from_controller: TypeAdapter[Welcome | Turned | Instruct | Acknowledge | Called] = TypeAdapter(FromController)
