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

# Says where a Python with matplotlib is, which only the plots of benchmarks need; makes it when there is none.
bench_python() {
    local venv=.cache/bench/venv lock=requirements/bench.txt
    if [ "$(cat "$venv/.complete" 2>/dev/null)" != "$(sha256sum "$lock")" ]; then
        say "installing the packages of $lock in $venv" >&2
        .venv/bin/uv venv --quiet --clear --python .venv/bin/python "$venv" >&2
        UV_NATIVE_TLS=1 .venv/bin/uv pip install --quiet --python "$venv/bin/python" -r "$lock" >&2
        sha256sum "$lock" >"$venv/.complete"
    fi
    echo "$venv/bin/python"
}
