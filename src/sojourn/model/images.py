"""An image: a root file system that sessions may start from, as podman keeps it."""

from __future__ import annotations

from sojourn.model.base import Word


class Image(Word):
    id: str
    """Its identity, the same wherever it is: the SHA-256 of its description, which names the content of each layer."""
    names: tuple[str, ...] = ()
    """What it is called where it was seen; a name may stand for another image elsewhere, or later."""
    size_bytes: int = 0
    created_at: float = 0.0
    """Seconds since the epoch."""
    env: dict[str, str] = {}
    """What its programs are to find in their environment."""

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return self.names[0] if self.names else self.id[:12]


def is_folder(image: str | None) -> bool:
    """Whether a session's `image` is a folder that holds a root, with which podman has nothing to do."""
    return image is not None and image.startswith("/")
