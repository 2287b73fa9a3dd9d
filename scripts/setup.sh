#!/bin/sh
# Make this checkout ready to use: uv, the environment in .venv from requirements.lock, the system parts.
# Safe to run again at any time; does nothing, quickly, when all is there. Asks nothing.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# A bare Debian or Ubuntu has neither pip nor the venv module; take them from its own packages.
find_uv() {
    if command -v uv >/dev/null 2>&1; then echo uv; return; fi
    if [ ! -x build/uv/bin/uv ]; then
        if ! python3 -c 'import ensurepip' 2>/dev/null; then
            say "installing python3 and python3-venv, for uv" >&2
            as_root apt-get --quiet update >&2
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get --quiet install --yes --no-install-recommends python3 python3-venv ca-certificates >&2
        fi
        say "installing uv into build/uv" >&2
        python3 -m venv build/uv >&2
        build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv >&2
    fi
    echo build/uv/bin/uv
}

# What .venv was made from; it is made again when one of these changes.
fingerprint() { cat requirements.lock pyproject.toml scripts/setup.sh | sha256sum; }

if [ "$(fingerprint)" != "$(cat .venv/sojourn-setup 2>/dev/null || true)" ]; then
    uv=$(find_uv)
    [ -x .venv/bin/python ] || { say "making .venv"; "$uv" venv --quiet --python '>=3.11' .venv; }
    say "installing what requirements.lock names, and Sojourn itself, into .venv"
    "$uv" pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
    "$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .
    fingerprint > .venv/sojourn-setup
fi

# A server of their own is started by tests of PostgreSQL, so Debian's main cluster is not made.
install_postgresql() {
    as_root apt-get --quiet update >/dev/null &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get --quiet install --yes --no-install-recommends postgresql-common >/dev/null &&
        as_root sed -ri 's/^#?(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get --quiet install --yes --no-install-recommends postgresql >/dev/null
}

if command -v apt-get >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    say "installing PostgreSQL, for tests"
    install_postgresql || say "PostgreSQL could not be installed; tests that need it are skipped"
fi

# Tests add a host over SSH. Its server is only unpacked, so that none is started on this machine.
bring_sshd() (
    mkdir -p build/openssh && cd build/openssh &&
        apt-get --quiet download openssh-server libwrap0 >/dev/null 2>&1 &&
        for package in *.deb; do dpkg-deb --extract "$package" . && rm "$package"; done
)

if command -v apt-get >/dev/null 2>&1 && [ ! -x /usr/sbin/sshd ] && [ ! -x build/openssh/usr/sbin/sshd ]; then
    say "unpacking sshd into build/openssh, for tests"
    bring_sshd || say "sshd could not be downloaded; the tests that need it are skipped"
fi

# Tests make a host of another Debian release.
install_debootstrap() {
    as_root apt-get --quiet update >/dev/null &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get --quiet install --yes --no-install-recommends debootstrap >/dev/null
}

if command -v apt-get >/dev/null 2>&1 && ! command -v debootstrap >/dev/null 2>&1; then
    say "installing debootstrap, for tests"
    install_debootstrap || say "debootstrap could not be installed; the tests that need it are skipped"
fi

say "looking at the system parts (sojourn doctor --fix)"
if .venv/bin/sojourn doctor --fix; then
    say "ready: 'make lab' opens JupyterLab, 'make test' runs the tests"
else
    say "sessions can't move live on this machine; the rest works ('sojourn doctor' shows why)"
fi
