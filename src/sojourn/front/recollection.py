"""What a kernel last said of itself, on disk: while it sleeps, the next front answers from it too."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sojourn.front.messages import Message
from sojourn.settings import write_private

Json = dict[str, Any]

_FACTS = (b'"kernel_info_reply"', b'"comm_info_reply"', b'"usage_reply"', b'"debug_reply"')
_COMMS = (b'"comm_open"', b'"comm_close"')


class Recollection:
    """Cheap to feed with all that passes; `save` writes down what has changed since the last time."""

    def __init__(self, path: Path, language: str) -> None:
        self._path = path
        self._language = language
        known = _read(path)
        self.executions: int = known.get("executions", 0)
        """The last execution count."""
        self.epoch: int | None = known.get("epoch")
        """Of the life that clients have seen last."""
        self._facts: dict[str, Json] = known.get("facts", {})
        self._comms: dict[str, str] = known.get("comms", {})
        """Comm -> its target."""
        self._written = self._state()

    # ── what passes ──

    def replied(self, message: Message) -> None:
        """The kernel answered a request, on shell or on control."""
        header = message.raw_header
        if not any(name in header for name in _FACTS):
            return
        kind, content = message.header.get("msg_type"), message.content
        if kind == "comm_info_reply":
            self._comms |= {comm: str(of.get("target_name")) for comm, of in content.get("comms", {}).items()}
        elif kind == "kernel_info_reply" and content != self._facts.get("kernel_info"):
            self._facts["kernel_info"] = content
            self.save()  # without this one, nobody could so much as open the notebook
        elif kind == "usage_reply":
            self._facts["usage"] = content
        elif content.get("command") == "debugInfo":
            self._facts["debug"] = content

    def passed(self, message: Message) -> None:
        """Either side sent this; a comm may have been opened or closed by it."""
        header = message.raw_header
        if not any(name in header for name in _COMMS):
            return
        content = message.content
        if message.header.get("msg_type") == "comm_open":
            self._comms[str(content.get("comm_id"))] = str(content.get("target_name"))
        else:
            self._comms.pop(str(content.get("comm_id")), None)

    @property
    def comms(self) -> tuple[str, ...]:
        """Those that are open, as far as is known."""
        return tuple(self._comms)

    def closed(self, comm: str) -> None:
        """The kernel does not have it any more."""
        self._comms.pop(comm, None)

    def forget_program(self) -> None:
        """It ended: its comms are gone, its execution count begins anew, nothing is debugged any more."""
        self._comms.clear()
        self._facts.pop("debug", None)
        self.executions = 0

    # ── what is known ──

    def answer(self, request: Message) -> Json:
        """To one of the requests that are `Kind.FACT`."""
        match request.header.get("msg_type"):
            case "kernel_info_request":
                return self._facts.get("kernel_info") or _nameless(self._language)
            case "comm_info_request":
                return {"status": "ok", "comms": self._open_comms(request.content.get("target_name"))}
            case "debug_request":
                return {**self._facts.get("debug", _NOT_DEBUGGED), "request_seq": request.content.get("seq", 0)}
        return self._facts.get("usage", {})

    def _open_comms(self, target: str | None) -> Json:
        known = self._comms.items()
        return {comm: {"target_name": name} for comm, name in known if target in (None, "", name)}

    # ── on disk ──

    def save(self) -> None:
        """On a disk that is full it is not kept: a question of a sleeping kernel then gets a poorer answer."""
        state = self._state()
        if state != self._written:
            with suppress(OSError):
                write_private(self._path, json.loads(state))
                self._written = state

    def _state(self) -> str:
        return json.dumps(
            {"facts": self._facts, "comms": self._comms, "executions": self.executions, "epoch": self.epoch}
        )


def _read(path: Path) -> Json:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _nameless(language: str) -> Json:
    """For a kernel that has never been asked, as one that was forked before it woke here."""
    return {
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": language,
        "implementation_version": "",
        "language_info": {"name": language, "version": "", "mimetype": f"text/x-{language}", "file_extension": ""},
        "banner": "This kernel sleeps. It says more when it has run a cell.",
        "help_links": [],
    }


_NOT_DEBUGGED: Json = {
    "type": "response",
    "success": True,
    "command": "debugInfo",
    "body": {
        "isStarted": False,
        "hashMethod": "Murmur2",
        "hashSeed": 0,
        "tmpFilePrefix": "",
        "tmpFileSuffix": "",
        "breakpoints": [],
        "stoppedThreads": [],
        "richRendering": False,
        "exceptionPaths": [],
        "copyToGlobals": False,
    },
}
"""What a debugger that was never started says of itself."""
