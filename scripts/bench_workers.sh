#!/usr/bin/env bash
# Tries worker and thread counts on one app host, says which to choose, and draws it: tune.yml on the running demo, or
# on a local container of its own with the application of the benchmarks.
#
# usage: scripts/bench_workers.sh [ARGUMENT OF ansible-playbook…]   such as -e tune_path=/io -e tune_seconds=2
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

export PATH="$PWD/.venv/bin:$PATH"
out=.cache/bench
mkdir -p "$out"
result=$PWD/$out/workers.json
if docker container inspect wsgi-fleet-app2 >/dev/null 2>&1; then
    inventory=(-i inventories/demo/hosts.yml)
    trap 'ansible-playbook "${inventory[@]}" undrain.yml -e host=app2 >/dev/null' EXIT
    say "draining app2 of the demo"
    ansible-playbook "${inventory[@]}" drain.yml -e host=app2
    arguments=(-e host=app2)
else
    inventory=(-i benchmarks/inventory/hosts.yml)
    arguments=(-e host=app1 -e tune_live=true)
    remove() { ansible-playbook "${inventory[@]}" molecule/shared/destroy.yml >/dev/null; }
    remove
    trap remove EXIT
    say "starting a local container"
    ansible-playbook "${inventory[@]}" molecule/shared/create.yml
    say "running site.yml on it"
    ansible-playbook "${inventory[@]}" site.yml
fi
say "trying settings"
ansible-playbook "${inventory[@]}" tune.yml "${arguments[@]}" -e "tune_result=$result" "$@"
python=$(bench_python)
"$python" -m scripts.bench_plot tune "$result" "$out/workers.svg"
say "the rounds lie in $out/workers.json, the plot in $out/workers.svg"
