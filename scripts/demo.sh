#!/usr/bin/env bash
# The demo: a fleet of local containers with the example application.
#
# usage: scripts/demo.sh up|scale|status|down
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

export PATH="$PWD/.venv/bin:$PATH"
name=wsgi-fleet
inventory=(-i inventories/demo/hosts.yml)
# What was scaled out stays so when the demo is run again.
if [ "${1:-}" = scale ] || docker container inspect "$name-app3" >/dev/null 2>&1; then
    inventory+=(-i inventories/demo/scale.yml)
fi

# The port that an earlier run chose, else the first free one from 8080 on.
published_port() {
    local port
    port=$(docker port "$name-lb1" 80/tcp 2>/dev/null | sed -n 's/^127\.0\.0\.1://p' | head -n 1)
    if [ -z "$port" ]; then
        port=$(python3 -c '
import socket
for port in range(8080, 8180):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(port)
        break')
    fi
    [ -n "$port" ] || die "no port from 8080 to 8179 is free on the loopback address"
    echo "$port"
}

up() {
    local port started=$SECONDS
    port=$(published_port)
    say "starting the hosts, in containers"
    ansible-playbook "${inventory[@]}" molecule/shared/create.yml \
        --extra-vars "{\"demo_port\": $port}"
    say "running ansible-playbook ${inventory[*]} site.yml"
    ansible-playbook "${inventory[@]}" site.yml
    report "$port" "$((SECONDS - started))"
}

report() {
    local port=$1 answer
    answer=$(python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode().strip())' \
        "http://127.0.0.1:$port/whoami") ||
        die "http://127.0.0.1:$port/ does not answer: see 'docker exec $name-lb1 journalctl -u haproxy'"
    say "the application answers at http://127.0.0.1:$port/"
    echo "It just said: $answer"
    echo
    echo "What runs where:"
    ansible-inventory "${inventory[@]}" --graph | sed 's/^/    /'
    cat <<TEXT

What to try next:
    make demo-scale                        one app host more, without a lost request
    edit examples/shop, then make demo     a new release, on every host or on none
    .venv/bin/ansible-playbook ${inventory[*]} rollback.yml
                                           back to the release before
    .venv/bin/ansible-playbook ${inventory[*]} history.yml
                                           what was live when
    open http://127.0.0.1:$port/cached      the cache that all app hosts share
    docker exec -it $name-app1 bash   look at a host
    make demo-down                         remove it all
TEXT
}

case "${1:-}" in
up | scale) up ;;
status) report "$(published_port)" 0 ;;
down)
    say "removing the demo's containers and their network"
    docker ps --all --quiet --filter "network=$name" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    docker network rm "$name" >/dev/null 2>&1 || true
    ;;
*) die "usage: scripts/demo.sh up|scale|status|down" ;;
esac
