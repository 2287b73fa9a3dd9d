"""Chunks at rest: named, compressed and sealed with keys derived from their owner's.

A chunk is named by what is in it, under a key, so that a name tells nobody else what it names: without the key, who
sees the store can't even find out whether some known file is in it. A sealed body is

    form (1 byte), the key's fingerprint (4), length of what follows (4, big-endian), nonce (12 random bytes),
    AES-256-GCM(content), with the form and the chunk's name as associated data

form 0: the content is the plain bytes; 1: zstd of them. Fingerprint and length only tell what is wrong with a body that
does not open; that it is the right one under this name, GCM tells. A key seals up to 2³² bodies, a petabyte, before
random nonces are in danger of meeting.
"""

from __future__ import annotations

import secrets
import struct
import threading

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from sojourn.chunks.manifest import Plain
from sojourn.errors import Invalid

LEVEL = -3
"""zstd's. Random-like memory passes at several GB/s, text and objects at several hundred MB/s."""
KEY_BYTES = 32

_HEAD = struct.Struct(">c4sI12s")
_TAG_BYTES = 16
_NONCE_BYTES = 12
EXTRA_BYTES = _HEAD.size + _TAG_BYTES
"""A sealed body is at most so much longer than the plain one."""
_PLAIN, _ZSTD = b"\0", b"\1"
_WORTH = 0.95
"""A chunk that compression does not make this much smaller is stored as it is: reading it back is quicker."""
_SAMPLES, _SAMPLE_BYTES = 4, 4096
_MOST_BYTES = 1 << 30


class Unsealable(Exception):
    """These bytes don't open. The message says why, to go on after "it is"."""


class Seal:
    """One owner's keys. Safe from many threads."""

    def __init__(self, key: bytes, level: int = LEVEL) -> None:
        if len(key) != KEY_BYTES:
            raise Invalid(f"An owner's key has {KEY_BYTES} bytes, not {len(key)}.")
        self.owner = derived(key, "owner")[:16].hex()
        """The name of the key: what the owner's part of a store is called."""
        self._naming = derived(key, "names of chunks")
        self._fingerprint = derived(key, "fingerprint")[:4]
        self._cipher = AESGCM(derived(key, "bodies of chunks"))
        self._mine = _Compressor(level)

    def name(self, plain: Plain) -> str:
        """64 hexadecimal digits: the same for the same bytes and owner."""
        return blake3(plain, key=self._naming).hexdigest()

    def close(self, plain: Plain, name: str) -> bytes:
        """The sealed body."""
        room = bytearray(len(plain) + EXTRA_BYTES)
        return bytes(room[: self.close_into(plain, name, memoryview(room))])

    def close_into(self, plain: Plain, name: str, room: memoryview) -> int:
        """Put the sealed body at the beginning of `room`, which has EXTRA_BYTES more than `plain`; gives its length."""
        form, content = self._packed(plain)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        length = len(content) + EXTRA_BYTES
        _HEAD.pack_into(room, 0, form, self._fingerprint, length - _HEAD.size, nonce)
        self._cipher.encrypt_into(nonce, content, form + name.encode(), room[_HEAD.size : length])
        return length

    def _packed(self, plain: Plain) -> tuple[bytes, Plain]:
        """Form and content. A few pages from all over it tell whether it is worth trying."""
        compress, view = self._mine.compress, memoryview(plain)
        step = max(len(view) // _SAMPLES, _SAMPLE_BYTES)
        sample = b"".join(view[start : start + _SAMPLE_BYTES] for start in range(0, len(view), step))
        if len(compress(sample)) < _WORTH * len(sample):
            packed = compress(plain)
            if len(packed) < _WORTH * len(view):
                return _ZSTD, packed
        return _PLAIN, plain

    def open(self, body: Plain, name: str) -> bytes:
        """Raises Unsealable."""
        if len(body) < _HEAD.size + _TAG_BYTES:
            raise Unsealable(f"truncated to {len(body)} bytes")
        form, fingerprint, length, nonce = _HEAD.unpack_from(body)
        sealed = memoryview(body)[_HEAD.size :]
        try:
            content = self._cipher.decrypt(nonce, sealed, form + name.encode())
        except InvalidTag:
            raise Unsealable(self._why(fingerprint, length, len(sealed))) from None
        return self._unpacked(content) if form == _ZSTD else content

    def _why(self, fingerprint: bytes, length: int, found: int) -> str:
        if fingerprint != self._fingerprint:
            return "sealed with another key"
        return f"truncated to {found} of {length} bytes" if found < length else "altered"

    def _unpacked(self, content: bytes) -> bytes:
        try:
            return ZstdDecompressor().decompress(content, max_output_size=_MOST_BYTES)
        except ZstdError as wrong:
            raise Unsealable(f"sealed whole, but does not unpack ({wrong})") from wrong


class _Compressor(threading.local):
    """Each thread has one of its own: it can't be shared, and is costly to make."""

    def __init__(self, level: int) -> None:
        self.compress = ZstdCompressor(level=level).compress


def derived(key: bytes, purpose: str) -> bytes:
    """A key for one purpose only: 32 bytes that tell nothing of the owner's key, nor of one for another purpose."""
    return blake3(key, derive_key_context=f"sojourn 2026 chunks: {purpose}").digest()
