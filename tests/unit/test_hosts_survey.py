"""What a host says of itself, and what is made of it: which Python, who makes the environment, which port."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sojourn.errors import DoesNotFit, SojournError
from sojourn.hosts import delivery, survey
from sojourn.hosts.delivery import Parcel, Plan
from sojourn.hosts.survey import Python

SAID = """\
system=Linux
machine=aarch64
uid=1000
home=/home/ada
libc=gnu
python=3.13 bare /usr/bin/python3.13
python=3.12 venv /opt/python/bin/python3.12
python=3.9 venv /usr/bin/python3
python=
uv=/home/ada/.local/bin/uv
delivered=0.1.0+abc
free=1000000
listens=0016
listens=217B
end=survey
"""
FOUND = survey.read(SAID)
BARE = replace(FOUND, uv="", pythons=(Python("/usr/bin/python3", (3, 13), False),))
PARCEL = Parcel("sojourn-1-py3-none-any.whl", b"wheel")


def test_what_a_host_says_is_understood():
    assert (FOUND.system, FOUND.machine, FOUND.is_root, FOUND.uv) == (
        "Linux",
        "aarch64",
        False,
        "/home/ada/.local/bin/uv",
    )
    assert [one.version for one in FOUND.pythons] == [(3, 13), (3, 12)], "3.9 is too old"
    assert FOUND.venv == "/home/ada/.local/share/sojourn/venv"
    assert replace(FOUND, uid=0).python == "/opt/sojourn/venv/bin/python"
    assert FOUND.ports == {22, 8571}
    assert FOUND.free_port(8571) == 8572
    assert FOUND.free_bytes == 1_024_000_000


def test_a_survey_that_broke_off_is_none():
    with pytest.raises(SojournError, match="does not say what it is"):
        survey.read(SAID.replace("end=survey\n", ""))


@pytest.mark.skipif(platform.system() != "Linux", reason="/proc/net/tcp is Linux's")
def test_this_machine_says_what_it_is():
    done = subprocess.run(["sh", "-s"], input=survey.SCRIPT, capture_output=True, text=True, check=True)
    found = survey.read(done.stdout)
    assert (found.system, found.machine) == ("Linux", platform.machine())
    assert found.free_bytes


def test_the_environment_is_made_by_who_can():
    ours = Path("/usr/bin/uv")
    assert delivery.plan(FOUND, ours) == Plan("uv", "/usr/bin/python3.13")
    assert delivery.plan(replace(FOUND, uv=""), ours) == Plan("pip", "/opt/python/bin/python3.12")
    assert delivery.plan(BARE, ours) == Plan("our uv", "/usr/bin/python3")
    assert delivery.plan(replace(BARE, pythons=()), ours) == Plan("our uv", "3.12")
    assert delivery.plan(replace(BARE, uid=0, apt=True), None) == Plan("apt", "/usr/bin/python3")
    for nothing in (BARE, replace(BARE, uid=0, pythons=(), apt=True)):
        with pytest.raises(DoesNotFit, match=r"3\.11 or newer"):
            delivery.plan(nothing, None)
    with pytest.raises(DoesNotFit, match="97 MB are free"):
        delivery.plan(replace(FOUND, free_bytes=100_000 * 1024), ours)


@pytest.mark.parametrize("chosen", [Plan("uv", "/usr/bin/python3"), Plan("pip", "/usr/bin/python3")])
def test_what_is_run_there_is_a_shells(chosen, monkeypatch):
    monkeypatch.setenv("SOJOURN_STORE", "s3://bucket")
    text = delivery.script(replace(FOUND, home="/home/a b"), chosen, PARCEL, "/tmp/d", "/wheelhouse")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert "'/home/a b/.local/share/sojourn/venv'" in text
    assert "--no-index --find-links /tmp/d/wheelhouse" in text
    assert "/tmp/d/sojourn-1-py3-none-any.whl[s3]" in text
    assert f"echo {PARCEL.fingerprint} >" in text


def test_another_content_is_another_sojourn():
    assert PARCEL.fingerprint == Parcel("other.whl", b"wheel").fingerprint != Parcel("", b"other").fingerprint
