"""Where checkpoints are kept: content-addressed, encrypted chunks in a folder, in S3, or in memory."""

from sojourn.chunks.backend import Backend, Entry
from sojourn.chunks.manifest import CHUNK, Body, Manifest, Run, cut
from sojourn.chunks.opening import open_store
from sojourn.chunks.packs import PACK
from sojourn.chunks.sweeping import Swept
from sojourn.chunks.vault import ChunkRef, Vault

__all__ = [
    "CHUNK",
    "PACK",
    "Backend",
    "Body",
    "ChunkRef",
    "Entry",
    "Manifest",
    "Run",
    "Swept",
    "Vault",
    "cut",
    "open_store",
]
