#!/usr/bin/env bash
# Counts what clients lose, and how long they wait, while a fleet of local containers is deployed to,
# rolled back, scaled, reconfigured and rebooted; prints one table. Or interrupts deploys, in every way at
# every step.
#
# usage: scripts/bench_deploy.sh [interruptions]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

export PATH="$PWD/.venv/bin:$PATH"
scenario=molecule/releases
export MOLECULE_PROJECT_DIRECTORY=$PWD MOLECULE_SCENARIO_DIRECTORY=$PWD/$scenario
export ANSIBLE_CONFIG=$PWD/ansible.cfg PYTHONPATH=$PWD/molecule/shared
inventory=(-i "$scenario/hosts.yml")
# What an earlier run has left would stand in the way of this one.
trap 'ansible-playbook "${inventory[@]}" molecule/shared/destroy.yml >/dev/null' EXIT

say "starting a fleet of local containers"
ansible-playbook "${inventory[@]}" molecule/shared/destroy.yml
ansible-playbook "${inventory[@]}" molecule/shared/create.yml
say "running site.yml on it"
ansible-playbook "${inventory[@]}" site.yml
tests=test_1_requests
if [ "${1:-}" = interruptions ]; then
    tests=test_2_interruptions
    export EVERY_STEP=1
    say "interrupting deploys; each dot is one way at one step (some forty minutes)"
else
    say "counting requests; each dot is a row of the table (some twenty minutes)"
fi
python -m pytest -q -s -p fleet_testing --ansible-inventory "$scenario/hosts.yml" --connection ansible \
    "$scenario/tests/$tests.py"
say "the rows also lie in .cache/bench-deploy.json"
