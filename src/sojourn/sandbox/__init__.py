"""The container that holds a session on one node.

base       what a sandbox is, and its record on disk      process    a plain process, for any OS
runc       runc's: put together from
    spec       what runc and the rider are told           rootfs     overlay, mask
    cgroups    freezing, holding, limits, killing         layer      the writable layer and its deltas
    network    the namespace                              way_out    pasta
    mounts     removal that never reaches through one     syscalls   what Python lacks
    seccomp    which system calls a session may make      images     podman's
criu_path  which CRIU
"""
