"""The understudy: speaks to clients in the kernel's place, while it can't, or must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from sojourn import switchboard_law as law
from sojourn.front.messages import Message, Voice, empty_answer, error_content
from sojourn.front.recollection import Recollection

Json = dict[str, Any]
Send = Callable[[Literal["shell", "control", "iopub"], list[bytes]], None]


class Understudy:
    """Carries out the law's instructions that are about answering. `send(channel, frames)` brings a message to the
    clients; `answered(request)` is called after each answer."""

    def __init__(
        self, voice: Voice, recollection: Recollection, send: Send, answered: Callable[[law.Request], None]
    ) -> None:
        self._voice, self._recollection, self._send, self._answered = voice, recollection, send, answered
        self._welcomed = False
        self._ungreeted: list[bytes] = []
        self.orders: dict[type, Callable[[Any], None]] = {
            law.Abort: self._abort,
            law.AnswerEmpty: self._answer_empty,
            law.Recall: self._recall,
            law.Fail: self._fail,
            law.Tell: self._tell,
            law.ConfirmInterrupt: self._confirm_interrupt,
        }

    # ── greeting subscribers, once the kernel has greeted us, so that it tells the truth ──

    def greet(self, topic: bytes) -> None:
        """Somebody has subscribed to iopub."""
        self._ungreeted.append(topic)
        if self._welcomed:
            self.welcomed()

    def welcomed(self) -> None:
        """The kernel has greeted us."""
        self._welcomed = True
        waiting, self._ungreeted = self._ungreeted, []
        for topic in waiting:
            self._send("iopub", self._voice.welcome(topic))

    def unwelcomed(self) -> None:
        """Our subscription to the kernel's iopub is gone."""
        self._welcomed = False

    # ── the law's orders ──

    def _abort(self, order: law.Abort) -> None:
        self._answer(order.request, {"status": "aborted"}, {"status": "aborted"})

    def _answer_empty(self, order: law.AnswerEmpty) -> None:
        self._answer(order.request, empty_answer(order.request.message, self._recollection.executions))

    def _recall(self, order: law.Recall) -> None:
        self._answer(order.request, self._recollection.answer(order.request.message))

    def _fail(self, order: law.Fail) -> None:
        error = error_content(order.name, order.message, order.hint)
        content = {**error, "status": "error", "execution_count": self._recollection.executions}
        if order.request.kind is law.Kind.EXECUTE:
            content |= {"user_expressions": {}, "payload": []}
        self._answer(order.request, content, error=None if order.request.silent else error)

    def _tell(self, order: law.Tell) -> None:
        self._publish(order.request.message, "stream", {"name": "stderr", "text": order.text})

    def _confirm_interrupt(self, order: law.ConfirmInterrupt) -> None:
        if order.message:
            self._send("control", self._voice.reply(order.message, {"status": "ok"}))

    def shut_down(self, message: Message, restart: bool) -> None:
        """Say goodbye as a kernel does, on control and on iopub."""
        goodbye = {"status": "ok", "restart": restart}
        self._publish(message, "status", {"execution_state": "busy"})
        self._send("control", self._voice.reply(message, goodbye))
        self._publish(message, "shutdown_reply", goodbye)
        self._publish(message, "status", {"execution_state": "idle"})

    def rest(self, message: Message) -> None:
        """Say that the kernel is done with a request."""
        self._publish(message, "status", {"execution_state": "idle"})

    # ── speaking ──

    def _answer(
        self, request: law.Request, content: Json, metadata: Json | None = None, error: Json | None = None
    ) -> None:
        """As a kernel answers: busy, the error if there is one, the reply, idle."""
        message: Message = request.message
        self._publish(message, "status", {"execution_state": "busy"})
        if error and request.kind is law.Kind.EXECUTE:
            self._publish(message, "error", error)
        if _has_reply(message):
            self._send(request.channel, self._voice.reply(message, content, metadata))
        elif error:
            self._publish(message, "stream", {"name": "stderr", "text": "\n".join(error["traceback"]) + "\n"})
        self._publish(message, "status", {"execution_state": "idle"})
        self._answered(request)

    def _publish(self, parent: Message, kind: str, content: Json) -> None:
        self._send("iopub", self._voice.publish(kind, parent.raw_header, content))


def _has_reply(message: Message) -> bool:
    return str(message.header.get("msg_type")).endswith("_request")
