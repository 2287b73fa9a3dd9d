"""Kernels that outlive Jupyter Server.

In Jupyter's configuration: `c.ServerApp.kernel_manager_class = "sojourn.jupyter.server_kernels.LastingKernels"`.
`sojourn up` starts JupyterLab like that.
"""

from __future__ import annotations

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from sojourn.jupyter.provisioner import SojournProvisioner


class LastingKernels(AsyncMappingKernelManager):
    """Jupyter Server's kernels, of which ours go on when the server ends; the front holds them.

    A kernel that the user shuts down ends as always.
    """

    async def shutdown_all(self, now: bool = False) -> None:
        """Called when the server ends."""
        for kernel_id in self.list_kernel_ids():
            kernel = self.get_kernel(kernel_id)
            if isinstance(kernel.provisioner, SojournProvisioner):
                kernel.stop_restarter()
                await kernel.provisioner.leave_behind()
                self.remove_kernel(kernel_id)
        await super().shutdown_all(now=now)
