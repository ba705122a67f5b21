#!/usr/bin/env bash
# Sees to it that a container engine answers this account: the running one, or Docker from the
# distribution.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

answers() { docker version >/dev/null 2>&1; }
answers_root() { as_root docker version >/dev/null 2>&1; }

if command -v docker >/dev/null && answers; then
    exit 0
fi
command -v dockerd >/dev/null || apt_install docker.io iptables
if ! answers_root; then
    say "starting the container engine"
    if [ -d /run/systemd/system ]; then
        as_root systemctl start docker
    else
        # In a session of its own, so that it outlives this script and a Ctrl-C.
        as_root sh -c 'setsid -f dockerd >/var/log/wsgi-fleet-dockerd.log 2>&1 </dev/null'
    fi
fi
for _ in $(seq 60); do
    if answers; then
        exit 0
    elif answers_root; then
        say "letting $(id -un) use the container engine until it restarts"
        # An entry of its own: the socket's owner and group, and so the access of others, stay.
        command -v setfacl >/dev/null || apt_install acl
        as_root setfacl --modify "user:$(id -un):rw" /var/run/docker.sock
    fi
    sleep 0.5
done
die "the container engine does not answer after 30 s: see /var/log/wsgi-fleet-dockerd.log, or 'journalctl -u docker'"
