#!/usr/bin/env bash
# Makes the host images that molecule/inventory/images.txt names: hosts with systemd, as a
# provider would hand them out, in containers.
#
# usage: scripts/images.sh [NAME…]   all of them when none is named
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

matrix=molecule/inventory/images.txt
# Package lists inside an image age; with older ones, installing fails on the hosts.
max_age_days=7
recipe=$(cat "$0" "$matrix" | sha256sum | cut -c1-12)

is_fresh() {
    local made
    [ "$(docker image inspect --format '{{ index .Config.Labels "wsgi.fleet.recipe" }}' "$1" 2>/dev/null)" = "$recipe" ] || return 1
    made=$(date -d "$(docker image inspect --format '{{ .Created }}' "$1")" +%s)
    [ $(($(date +%s) - made)) -lt $((max_age_days * 86400)) ]
}

registry_answers() {
    # One short try: where there is none, waiting is the usual answer.
    timeout 20 docker pull --quiet "$1" >/dev/null 2>&1
}

# Bootstraps a release of the machine's own distribution, from the machine's own mirrors.
bootstrap() {
    local suite=$1 tar=$2 id mirror components
    command -v mmdebstrap >/dev/null || apt_install mmdebstrap
    id=$(. /etc/os-release && echo "$ID")
    components=main
    [ "$id" = ubuntu ] && components=main,universe
    # The dollar sign is apt's.
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        grep -E "/$id/?$" | grep -v security | head -n 1)
    [ -n "$mirror" ] || die "no mirror of $id was found in apt's sources: add one, or make a container registry reachable"
    as_root mmdebstrap --quiet --variant=minbase --components="$components" \
        --include=systemd,systemd-sysv,dbus,python3,python3-apt,sudo,ca-certificates,iproute2,procps,openssh-server \
        "$suite" "$tar" "$mirror"
}

# What a container needs besides to behave like a host; the roles know nothing of it.
finish() {
    local base=$1 name=$2 container
    container=$(docker run --detach --label wsgi.fleet=image "$base" sleep 600)
    if [ -d /usr/local/share/ca-certificates ]; then
        docker cp --quiet /usr/local/share/ca-certificates/. "$container":/usr/local/share/ca-certificates/ 2>/dev/null ||
            docker cp /usr/local/share/ca-certificates/. "$container":/usr/local/share/ca-certificates/
    fi
    docker exec -i "$container" sh -eu >/dev/null <<'IN_CONTAINER'
export DEBIAN_FRONTEND=noninteractive
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/zz-container
printf 'Acquire::Languages "none";\n' >/etc/apt/apt.conf.d/zz-container
# Official images keep services from starting and drop downloads; a host does neither.
rm -f /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/docker-clean
apt-get update -qq
apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus python3 python3-apt sudo \
    ca-certificates iproute2 procps openssh-server >/dev/null
update-ca-certificates >/dev/null 2>&1
mkdir -p /etc/systemd/system/service.d
# The limit of open files is lower here than some units ask for, and cannot be raised.
printf '[Service]\nLimitNOFILE=20000\n' >/etc/systemd/system/service.d/zz-container-limits.conf
useradd --create-home --shell /bin/bash deploy
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy
systemctl mask --quiet systemd-firstboot.service systemd-udevd.service ssh.service ssh.socket \
    apt-daily.timer apt-daily-upgrade.timer
IN_CONTAINER
    docker commit --change 'CMD ["/lib/systemd/systemd"]' \
        --change "LABEL wsgi.fleet.recipe=$recipe" "$container" "$name" >/dev/null
    docker rm --force "$container" >/dev/null
}

machine=$(. /etc/os-release && echo "$ID")
while read -r name ubuntu ubuntu_suite debian_suite; do
    case $name in '' | '#'*) continue ;; esac
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    image=wsgi-fleet/$name
    is_fresh "$image" && continue
    if registry_answers "ubuntu:$ubuntu"; then
        say "making the host image $image from ubuntu:$ubuntu"
        finish "ubuntu:$ubuntu" "$image"
        continue
    fi
    suite=$debian_suite
    [ "$machine" = ubuntu ] && suite=$ubuntu_suite
    say "making the host image $image: no registry answers, so $machine $suite is bootstrapped (half a minute)"
    scratch=$(mktemp -d)
    bootstrap "$suite" "$scratch/base.tar"
    docker import - "wsgi-fleet/base-$suite" <"$scratch/base.tar" >/dev/null
    as_root rm -rf "$scratch"
    finish "wsgi-fleet/base-$suite" "$image"
done <"$matrix"
