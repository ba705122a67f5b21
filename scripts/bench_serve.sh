#!/usr/bin/env bash
# Compares worker models with what people set up by hand, on one local container: prints tables of ratios, and
# draws them.
#
# usage: scripts/bench_serve.sh [--rounds N] [--seconds N] [--only PART-OF-A-NAME]…
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

export PATH="$PWD/.venv/bin:$PATH"
inventory=(-i benchmarks/inventory/hosts.yml)
out=.cache/bench
mkdir -p "$out"
command -v wrk >/dev/null || apt_install wrk
remove() { ansible-playbook "${inventory[@]}" molecule/shared/destroy.yml >/dev/null; }

remove
trap remove EXIT
say "starting a local container"
ansible-playbook "${inventory[@]}" molecule/shared/create.yml
say "running site.yml on it"
ansible-playbook "${inventory[@]}" site.yml
say "setting up what is compared"
ansible-playbook "${inventory[@]}" benchmarks/serve.yml -e "serve_result=$PWD/$out/serve-facts.json"
say "measuring (a round takes some five minutes)"
python -m scripts.bench_serve --facts "$out/serve-facts.json" --out "$out/serve.json" "$@"
say "drawing"
python=$(bench_python)
"$python" -m scripts.bench_plot serve "$out/serve.json" docs
say "the rounds lie in $out/serve.json, the plots in docs/serving-*.svg"
