"""The program whose silence is measured: a kernel with a patterned heap that prints a numbered line every 2 ms."""

from __future__ import annotations

PAGE = 4096

PREPARE = """
import mmap, struct, time, threading
import numpy as np
_pages = int({heap_gb} * 2**30 / 4096)
_heap = mmap.mmap(-1, max(_pages, 1) * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
_words = np.frombuffer(_heap, dtype=np.uint64).reshape(-1, 512)
for _start in range(0, len(_words), 65536):
    _block = _words[_start : _start + 65536]
    _block[:] = np.arange(_start + 1, _start + 1 + len(_block), dtype=np.uint64)[:, None]

def verify():
    "The number of pages that do not hold what was written to them."
    wrong = np.zeros(len(_words), dtype=bool)
    for column in (0, 17, 511):
        wrong |= _words[:, column] != np.arange(1, len(_words) + 1, dtype=np.uint64)
    return int(wrong.sum())

class Summing(threading.Thread):
    "Reads the whole heap again and again, as a user's computation would while pages are still on their way."
    def __init__(self):
        super().__init__(daemon=True)
        self.go_on = True
        self.start()
    def run(self):
        while self.go_on:
            for start in range(0, len(_words), 4096):
                _words[start : start + 4096].sum()
                if not self.go_on:
                    return

def count_aloud():
    number = 0
    while True:
        number += 1
        print(number, flush=True)
        time.sleep(0.002)
"""


def prepare(heap_gb: float) -> str:
    """Python source that fills `heap_gb` GiB, every word of a page holding the page's number."""
    return PREPARE.format(heap_gb=heap_gb)
