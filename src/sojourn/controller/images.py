"""Images: which node has which, and how one gets to where it is needed.

Nodes are asked when somebody wants to know: people and other programs use podman there as well, so nothing that was
heard before need be true now. What is on its way is known here alone; a controller that ends forgets it, and podman has
then taken an image in or has not.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sojourn.client.words import ImageView, Transfer, TransferPlace
from sojourn.controller.places import expiry
from sojourn.controller.questions import Questions
from sojourn.controller.roster import Roster
from sojourn.errors import DoesNotFit, Incompatible, Refused, SojournError, Unknown, Unreachable, from_wire
from sojourn.lifecycle import Session
from sojourn.model import Image, NodeView, SessionSpec
from sojourn.model.images import is_folder
from sojourn.tickets import sign
from sojourn.wire import ImageFetched, ImageProgressed, PullImage, SendImage

REGISTRY = "registry"
ASKER = ""
"""The way by which whoever asked brings an image along."""
SILENCE_SECONDS = 60.0
"""After so long without a word of it an image does not come any more."""
REMEMBER_SECONDS = 600.0

Clock = Callable[[], float]


@dataclass(frozen=True)
class Stock:
    """What the nodes that could be asked have of an image."""

    reference: str
    found: dict[str, Image | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Why a node can't have images."""

    def has(self, node: str) -> bool:
        return self.found.get(node) is not None

    def lacking(self, node: str) -> str:
        """Why a session from this image can't be at a node now; empty if it can, or is from no image."""
        if not self.reference or self.has(node):
            return ""
        return self.problems.get(node, f"it has no image {self.reference}")

    def pin(self, spec: SessionSpec, node: str) -> SessionSpec:
        """The spec of a session that starts at a node, with the very image that its name stands for there."""
        return spec.model_copy(update={"pinned": self.found.get(node)})

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What no node offers, or the one that was asked for, because of the image, is raised with what to do."""
        try:
            yield
        except DoesNotFit as nowhere:
            if f"no image {self.reference}" not in nowhere.message or not self.reference:
                raise
            fetch = f"`sojourn image pull {self.reference}` brings it to the nodes."
            raise DoesNotFit(nowhere.message, fetch) from nowhere

    def newest(self) -> Image | None:
        return max(filter(None, self.found.values()), key=lambda image: image.created_at, default=None)

    def holders(self, image: Image) -> list[str]:
        return [node for node, one in self.found.items() if one and one.id == image.id]


@dataclass(frozen=True)
class Source:
    """Where an image may come from: its registry, a node, or whoever asked for it."""

    way: str
    image: Image | None = None
    """What is there; of a registry it is not known before."""


@dataclass
class _Attempt:
    """To get an image to a node from one source."""

    transfer: str
    answer: asyncio.Future[Image]
    heard_at: float


class Images:
    def __init__(self, roster: Roster, questions: Questions, living: Callable[[], Iterable[Session]], clock: Clock):
        self._roster, self._questions, self._living, self._clock = roster, questions, living, clock
        self._transfers: dict[str, Transfer] = {}
        self._tasks: dict[str, asyncio.Task[Image]] = {}
        self._attempts: dict[str, _Attempt] = {}

    # ── who has what ─────────────────────────────────────────────────────────────────────────────────────────

    async def stock(self, reference: str) -> Stock:
        """Of an image, by name or id, at all nodes that can be reached."""
        names = [node.name for node in self._roster.views() if self._roster.online(node.name)]
        answers = await asyncio.gather(*(self._look(name, reference) for name in names))
        stock = Stock(reference)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, SojournError):
                stock.problems[name] = answer.message.removesuffix(".")
            else:
                stock.found[name] = answer[0] if answer else None
        return stock

    async def stock_of(self, spec: SessionSpec) -> Stock:
        """Of what a session is from, or is to be started from."""
        if spec.image is None or is_folder(spec.image):
            return Stock("")
        return await self.stock(spec.pinned.id if spec.pinned else spec.image)

    async def overview(self, mine: Sequence[Session]) -> list[ImageView]:
        """Every image that has a name or is used, where it is, and which of these sessions are from it."""
        names = [node.name for node in self._roster.views() if self._roster.online(node.name)]
        answers = await asyncio.gather(*(self._look(name, "") for name in names))
        by_id: dict[str, ImageView] = {}
        for name, answer in zip(names, answers, strict=True):
            for image in () if isinstance(answer, SojournError) else answer:
                known = by_id.get(image.id, ImageView(image=image, nodes=(), sessions=()))
                everywhere = tuple(dict.fromkeys((*known.image.names, *image.names)))
                by_id[image.id] = ImageView(
                    image=known.image.model_copy(update={"names": everywhere}),
                    nodes=(*known.nodes, name),
                    sessions=tuple(one.name or one.id for one in mine if _is_from(one, image.id)),
                )
        shown = [view for view in by_id.values() if view.image.names or view.sessions]
        return sorted(shown, key=lambda view: (view.image.names, view.image.id))

    async def _look(self, node: str, reference: str) -> tuple[Image, ...] | SojournError:
        try:
            return await self._questions.images(node, reference)
        except SojournError as failed:
            return failed

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────

    def missing(self, session: Session, node: str, stock: Stock) -> Image | None:
        """What has to be brought to a node before a session can go there. Raises Incompatible where that can't be."""
        if not stock.lacking(node):
            return None
        if problem := stock.problems.get(node):
            raise Incompatible(f"Node {node} can't have the session's image: {problem}.", "Choose another node.")
        image = session.spec.pinned or stock.found.get(session.node) or stock.newest()
        if image is None:
            raise _nowhere(session.spec, node)
        return image

    async def bring_for(self, session: Session, spec: SessionSpec, node: str) -> int:
        """Have the image of a session at a node; how many bytes came, once all are there: 0 where it was already.
        Raises Incompatible, and what went wrong."""
        stock = await self.stock_of(spec)
        image = self.missing(session, node, stock)
        if image is None:
            return 0
        name = spec.image or image.name
        holders = sorted(stock.holders(image), key=lambda holder: holder != session.node)
        sources = [Source(holder, image) for holder in holders] or [Source(REGISTRY)]
        transfer = self._begin(name, node, sources)
        try:
            came = await asyncio.shield(self._tasks[transfer.id])
        except SojournError as failed:
            kind = type(failed) if isinstance(failed, Refused) else Incompatible
            raise kind(
                f"Image {name} could not be brought to {node}: {failed.message}",
                f"{failed.hint} `sojourn image pull {name} --node {node}` tries it by itself.".strip(),
            ) from failed
        if came.id != image.id:
            raise Incompatible(
                f"{name} stands for another image by now ({came.id[:12]}) than the session's ({image.id[:12]}), which "
                "no node has that can be reached.",
                "Start a node that has it, then try again.",
            )
        return image.size_bytes

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────

    async def pull(self, reference: str, nodes: Sequence[str] | None, own: Image | None) -> list[Transfer]:
        """Begin to bring an image to nodes (None: to all that take sessions from images), and to each by the first way
        that leads there: its registry, then a node that has it. What whoever asks has itself (`own`), or was built and
        not pulled, comes from there: the newest if there are several. Raises Unknown, Unreachable, DoesNotFit."""
        wanted = [self._roster.view(name) for name in nodes] if nodes else self._takers()
        for node in wanted:
            self._roster.require_online(node.name)
        stock = await self.stock(reference)
        newest = max(filter(None, (stock.newest(), own)), key=lambda image: image.created_at, default=None)
        sources = [Source(node, newest) for node in (stock.holders(newest) if newest else ())]
        if newest and newest == own and not sources:
            sources = [Source(ASKER, own)]
        if own is None and not _is_local(reference, newest):
            sources = [Source(REGISTRY), *sources]
        if not sources:
            raise Unknown(
                f"No node has image {reference}, and it is in no registry.", "`sojourn image build` makes one."
            )
        return [self._begin(reference, node.name, sources, stock.found.get(node.name)) for node in wanted]

    def transfers(self) -> list[Transfer]:
        """Those under way, and the last ones that ended."""
        return list(self._transfers.values())

    async def remove(self, reference: str, nodes: Sequence[str] | None) -> dict[str, dict[str, str] | None]:
        """Node -> None, or why it keeps the image (as SojournError.to_wire()). Raises Unknown when no node has it, and
        Refused when a session that sleeps could not wake any more."""
        stock = await self.stock(reference)
        having = [node for node in nodes or stock.found if stock.has(node)]
        if not having:
            raise Unknown(f"No node has image {reference}.", "`sojourn image list` shows those there are.")
        for node in having:
            self._require_dispensable(stock, node, set(having))
        answers = await asyncio.gather(*(self._remove(node, reference) for node in having))
        return dict(zip(having, answers, strict=True))

    async def _remove(self, node: str, reference: str) -> dict[str, str] | None:
        try:
            await self._questions.remove_image(node, reference)
        except SojournError as kept:
            return kept.to_wire()
        return None

    def _require_dispensable(self, stock: Stock, node: str, leaving: set[str]) -> None:
        image = stock.found[node]
        assert image
        if set(stock.holders(image)) - leaving:
            return
        for session in self._living():
            if session.asleep and _is_from(session, image.id):
                raise Refused(
                    f"Session {session.name or session.id} sleeps, and needs image {stock.reference} to wake: this is "
                    "the last of it.",
                    "Stop the session first, or leave the image on one node.",
                )

    def _takers(self) -> list[NodeView]:
        online = [node for node in self._roster.views() if self._roster.online(node.name)]
        if takers := [node for node in online if "runc" in node.capabilities.sandboxes]:
            return takers
        raise DoesNotFit("No node that is online can start sessions from an image.", "`sojourn doctor` says why.")

    # ── on their way ─────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, event: ImageProgressed | ImageFetched) -> None:
        """What nobody waits for any more is dropped."""
        attempt = self._attempts.get(event.request)
        if attempt is None or attempt.answer.done():
            return
        attempt.heard_at = time.monotonic()
        if isinstance(event, ImageProgressed):
            known = self._transfers[attempt.transfer]
            total = event.total_bytes or known.total_bytes
            self._update(attempt.transfer, done_bytes=event.done_bytes, total_bytes=total, step=event.step)
        elif event.image:
            attempt.answer.set_result(event.image)
        else:
            attempt.answer.set_exception(from_wire(event.error or {}))

    def _begin(self, reference: str, node: str, sources: Sequence[Source], known: Image | None = None) -> Transfer:
        """A transfer from the first of these sources that gives it; the one under way, if the same is on its way there.
        `known`: what is there already under that name."""
        self._forget_old()
        image = sources[0].image
        identity = image.id if image else ""
        for one in self._transfers.values():
            if (one.reference, one.node, one.image, one.ended_at) == (reference, node, identity, None):
                return one
        transfer = Transfer(
            id=uuid.uuid4().hex,
            reference=reference,
            node=node,
            image=identity,
            way=sources[0].way,
            total_bytes=image.size_bytes if image else 0,
            began_at=self._clock(),
        )
        self._transfers[transfer.id] = transfer
        if image and known and image.id == known.id:
            self._update(transfer.id, way=node, done_bytes=image.size_bytes, ended_at=self._clock())
        else:
            task = self._tasks[transfer.id] = asyncio.create_task(self._carry(transfer, sources))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # not everybody waits for it
        return self._transfers[transfer.id]

    async def _carry(self, transfer: Transfer, sources: Sequence[Source]) -> Image:
        failed = SojournError("It has no source.")
        for source in sources:
            self._update(transfer.id, way=source.way, step="", done_bytes=0)
            try:
                image = await self._attempt(transfer, source)
            except SojournError as why:
                failed = why
            else:
                self._update(transfer.id, image=image.id, ended_at=self._clock(), place=None)
                return image
        self._update(transfer.id, error=failed.to_wire(), ended_at=self._clock(), place=None)
        raise failed

    async def _attempt(self, transfer: Transfer, source: Source) -> Image:
        """Raises what its node says, what its source says, and Unreachable when neither says anything any more."""
        request = uuid.uuid4().hex
        attempt = _Attempt(transfer.id, asyncio.get_running_loop().create_future(), time.monotonic())
        self._attempts[request] = attempt
        try:
            self._ask(request, transfer, source)
            while True:
                silent_s = time.monotonic() - attempt.heard_at
                if silent_s > SILENCE_SECONDS:
                    raise Unreachable(
                        f"Nothing more is heard of image {transfer.reference} on its way to {transfer.node}.",
                        "Look whether its agent runs, then try again.",
                    )
                await asyncio.wait({attempt.answer}, timeout=SILENCE_SECONDS - silent_s + 0.1)
                if attempt.answer.done():
                    return attempt.answer.result()
        finally:
            del self._attempts[request]

    def _ask(self, request: str, transfer: Transfer, source: Source) -> None:
        if source.image is None:
            self._roster.require_online(transfer.node)
            self._roster.tell(transfer.node, PullImage(request=request, reference=transfer.reference))
            return
        place = self._place(request, transfer, source.image)
        if source.way == ASKER:
            self._update(transfer.id, place=place)
            return
        self._roster.require_online(source.way)
        wanted = SendImage(request=request, image=source.image.id, target=transfer.node, **place.model_dump())
        self._roster.tell(source.way, wanted)

    def _place(self, request: str, transfer: Transfer, image: Image) -> TransferPlace:
        node = self._roster.node(transfer.node)
        claims = {
            "for": "image",
            "request": request,
            "image": image.id,
            "name": transfer.reference,
            "size_bytes": image.size_bytes,
        }
        ticket = sign(claims, node.key, expiry(self._clock()))
        return TransferPlace(address=node.view.address or "", ticket=ticket, authority=self._roster.authority)

    def _update(self, identity: str, **changes: object) -> None:
        self._transfers[identity] = self._transfers[identity].model_copy(update=changes)

    def _forget_old(self) -> None:
        old = self._clock() - REMEMBER_SECONDS
        for one in [one for one in self._transfers.values() if one.ended_at is not None and one.ended_at < old]:
            del self._transfers[one.id]
            self._tasks.pop(one.id, None)


def _is_from(session: Session, image: str) -> bool:
    return bool(session.spec.pinned and session.spec.pinned.id == image)


def _is_local(reference: str, image: Image | None) -> bool:
    """Whether no registry has it: podman's word for what was built and not pulled."""
    names = image.names if image else ()
    return any(name.startswith("localhost/") for name in (reference, *names))


def _nowhere(spec: SessionSpec, node: str) -> Incompatible:
    return Incompatible(
        f"Node {node} has no image {spec.image}, and no other node that can be reached has it.",
        f"`sojourn image pull {spec.image} --node {node}` tries its registry.",
    )
