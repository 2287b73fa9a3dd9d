"""The kernelspec, installed into a folder of the test."""

import json
import os
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from sojourn.jupyter.kernel_session import kernel_command
from sojourn.jupyter.kernelspec import NAME, install, kernel_json, stem_of


def test_jupyter_finds_what_was_installed(tmp_path, monkeypatch):
    folder = install(prefix=str(tmp_path))
    assert install(prefix=str(tmp_path)) == folder  # done twice it is done once
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    spec = KernelSpecManager().get_kernel_spec(NAME)
    assert spec.display_name == "Python 3 (Sojourn)"
    assert spec.argv[1:] == ["-f", "{connection_file}"]
    assert os.access(spec.argv[0], os.X_OK)
    assert spec.metadata["kernel_provisioner"]["provisioner_name"] == "sojourn-provisioner"
    assert (Path(spec.resource_dir) / "logo-svg.svg").exists()


def test_its_kernels_may_be_for_the_whole_fleet() -> None:
    assert kernel_json("k", "fleet")["metadata"]["kernel_provisioner"]["config"] == {"cpu": "fleet"}
    assert kernel_json("k", "fleet")["env"] == {"SOJOURN_CPU": "fleet"}, "the launcher has no other settings"
    assert kernel_json("k")["metadata"]["kernel_provisioner"]["config"] == {}


def test_one_from_an_image_stands_beside_it(tmp_path: Path) -> None:
    plain, from_image = install(prefix=str(tmp_path)), install(prefix=str(tmp_path), image="localhost/data:latest")
    assert (plain.name, from_image.name) == (NAME, f"{NAME}-data")
    written = json.loads((from_image / "kernel.json").read_text())
    assert written["display_name"] == "Python 3 (Sojourn, data)"
    assert written["env"] == {"SOJOURN_IMAGE": "localhost/data:latest"}
    assert written["metadata"]["kernel_provisioner"]["config"] == {"image": "localhost/data:latest"}
    assert install(prefix=str(tmp_path), image="quay.io/ada/data:2", name="mine").name == "mine"
    assert stem_of("quay.io:5000/ada/data:2") == "data-2"


def test_a_wheel_brings_the_same_kernelspec() -> None:
    brought = json.loads((Path(__file__).parents[2] / "share/jupyter/kernels/sojourn/kernel.json").read_text())
    written = kernel_json("sojourn-kernel")
    assert brought["metadata"] == written["metadata"]
    assert kernel_command(brought["argv"]) == ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
