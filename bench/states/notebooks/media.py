"""Pictures, figures, widgets, documents."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "pictures",
        needs=("PIL", "numpy"),
        cells="""
import numpy as np
from PIL import Image, ImageDraw
picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
grey = picture.convert("L")
brush = ImageDraw.Draw(picture)
brush.point((0, 0), fill=(255, 0, 0))
picture.save("dot.png")
opened = Image.open("dot.png")
""",
        probes="""
picture.getpixel((0, 0))
opened.getpixel((0, 0)), opened.format
brush.point((1, 1), fill=(9, 9, 9)) or picture.getpixel((1, 1))
""",
        unexamined={"brush": "probed by drawing with it", "opened": "probed by its pixels"},
    ),
    State(
        "a matplotlib figure that is still drawn on",
        needs=("matplotlib", "numpy"),
        cells="""
import matplotlib.pyplot as plt
import numpy as np
figure, (left, right) = plt.subplots(1, 2)
line, = left.plot(np.arange(10), np.arange(10) ** 2, "r--", label="square")
left.legend()
right.imshow(np.eye(5))
# %%
note = left.annotate("here", (5, 25))
""",
        probes="""
left.figure is figure and line.axes is left
line.set_linewidth(4) or left.get_lines()[0].get_linewidth()
[axes is other for axes, other in zip(figure.axes, (left, right))]
left.get_legend().get_texts()[0].get_text()
plt.figure(figure.number) is figure
""",
    ),
    State(
        "widgets with observers",
        needs=("ipywidgets",),
        cells="""
import ipywidgets as widgets
slider = widgets.IntSlider(3, 0, 10, description="n")
label = widgets.Label("start")
heard = []

def on_change(change):
    heard.append(change["new"])
    label.value = f"n = {change['new']}"

slider.observe(on_change, "value")
box = widgets.VBox([slider, label])
link = widgets.link((slider, "value"), (widgets.IntText(), "value"))
""",
        probes="""
slider.value, slider.description
setattr(slider, "value", 7) or (label.value, heard)
box.children[0] is slider and box.children[1] is label
link.target[0].value
""",
        unexamined={"link": "probed by what it links", "box": "probed by its children"},
    ),
    State(
        "documents of lxml",
        needs=("lxml",),
        cells="""
from lxml import etree, html
page = html.fromstring("<html><body><p class='a'>one</p><p>two</p></body></html>")
first = page.find(".//p")
tree = etree.ElementTree(etree.fromstring("<a xmlns:n='urn:n'><n:b k='1'/>tail</a>"))
paths = etree.XPath("//p/text()")
""",
        probes="""
first.text, first.getparent().tag
paths(page)
first.set("class", "changed") or page.find(".//p").get("class")
etree.tostring(tree)
""",
        unexamined={"paths": "a compiled path; examined by what it finds"},
    ),
    State(
        "documents of the standard library",
        cells="""
import xml.etree.ElementTree as ET
from configparser import ConfigParser
from email.message import EmailMessage
from argparse import ArgumentParser, Namespace
root = ET.fromstring("<a><b k='1'>x</b></a>")
child = root[0]
config = ConfigParser()
config.read_string("[server]\\nport = 80\\n")
mail = EmailMessage()
mail["Subject"] = "hello"
mail.set_content("text")
parser = ArgumentParser(prog="tool")
parser.add_argument("--depth", type=int, default=3)
options = parser.parse_args(["--depth", "5"])
""",
        probes="""
root[0] is child
ET.tostring(root)
config["server"].getint("port")
mail["Subject"], mail.get_content()
parser.parse_args([]).depth, options.depth
""",
        unexamined={
            "root": "probed as text",
            "child": "probed within root",
            "config": "probed by a value",
            "mail": "probed by its parts",
            "parser": "probed by parsing",
        },
    ),
    State(
        "archives and digests in the making",
        cells="""
import hashlib, io, json, zipfile, zlib
digest = hashlib.sha256(b"first half")
packer = zlib.compressobj()
packed = packer.compress(b"abc" * 1000)
archive_bytes = io.BytesIO()
with zipfile.ZipFile(archive_bytes, "w") as archive:
    archive.writestr(zipfile.ZipInfo("a.txt"), "hello")
log = io.StringIO()
log.write("line 1\\n")
""",
        probes="""
digest.update(b"second") or digest.hexdigest()
zlib.decompress(packed + packer.flush())[:6]
zipfile.ZipFile(archive_bytes).read("a.txt")
log.write("line 2\\n") and log.getvalue()
""",
        unexamined={"digest": "probed by going on", "packer": "probed by going on", "archive": "closed"},
    ),
)
