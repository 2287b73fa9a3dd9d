"""A podman that keeps its images as files in a folder: enough of it to see how it is spoken to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SCRIPT = """#!{python} -IS
import json, pathlib, sys
store = pathlib.Path({store!r})
words = [word for word in sys.argv[1:] if not word.startswith("--")]
images = {{path.name: json.loads(path.read_text()) for path in store.iterdir()}}

def find(name):
    for said in images.values():
        if name in (said["Id"], *said["RepoTags"]):
            return said
    sys.exit(print("Error: " + name + ": image not known", file=sys.stderr) or 125)

def keep(said):
    (store / said["Id"]).write_text(json.dumps(said))

if words[:2] == ["image", "inspect"]:
    print(json.dumps([find(words[2])]))
elif words[0] == "info":
    print(store)
elif words[0] == "save":
    print(json.dumps(find(words[-1])), end="")
elif words[0] == "load":
    keep(json.loads(sys.stdin.read()) | {{"RepoTags": []}})
elif words[0] == "tag":
    said = find(words[1])
    keep(said | {{"RepoTags": [*said["RepoTags"], words[2]]}})
elif words[0] == "run":
    print(find(words[-3])["Says"])
else:
    sys.exit(print("Error: no such word", file=sys.stderr) or 125)
"""


class Podman:
    """Put its folder first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.store, self.bin = folder / "images", folder / "bin"
        self.store.mkdir(parents=True)
        self.bin.mkdir()
        program = self.bin / "podman"
        program.write_text(SCRIPT.format(store=str(self.store), python=sys.executable))
        program.chmod(0o755)

    def has(self, identity: str, name: str, **changes: Any) -> str:
        """Give it an image; its id, of 64 digits."""
        image = identity * (64 // len(identity))
        body = {
            "Id": image,
            "RepoTags": [name],
            "Size": 1000,
            "Created": "2026-11-23T18:43:25.538244808Z",
            "Config": {"Env": ["PATH=/opt/conda/bin", "HOME=/root", "A=b=c"]},
            "GraphDriver": {"Name": "overlay", "Data": {"UpperDir": "/top", "LowerDir": "/middle:/bottom"}},
            **changes,
        }
        (self.store / image).write_text(json.dumps(body))
        return image
