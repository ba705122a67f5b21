#!/usr/bin/env bash
# Removes what the demo and the tests leave on a machine. Docker itself stays.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

if docker version >/dev/null 2>&1; then
    say "removing hosts, networks and images of the demo and the tests"
    for what in host image; do
        docker ps --all --quiet --filter "label=wsgi.fleet=$what" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    done
    docker network ls --quiet --filter label=wsgi.fleet=network | xargs --no-run-if-empty docker network rm >/dev/null
    docker images --quiet 'wsgi-fleet/*' | sort -u | xargs --no-run-if-empty docker rmi --force >/dev/null
fi
say "removing .venv and .cache"
rm -rf .venv .cache
