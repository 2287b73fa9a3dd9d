"""The kernelspec, installed into a folder of the test."""

import os
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from sojourn.jupyter.kernelspec import NAME, install


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
