# shellcheck shell=bash
# What the scripts share. Sourced, never run.

# Where daemons are, which the PATH of an account without privileges may leave out.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root, by sudo where that is needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root: run this as root, or install sudo"
    fi
}

# Installs packages of the distribution, after saying so.
apt_install() {
    command -v apt-get >/dev/null || die "$* is missing and this is no Debian or Ubuntu: install it and run this again"
    say "installing packages: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
