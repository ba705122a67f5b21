#!/usr/bin/env bash
# Makes .venv with everything that the demo and the tests need on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

lock=requirements/dev.txt
stamp=.venv/.complete
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(sha256sum "$lock")" ]; then
    exit 0
fi

python=
for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || die "no Python 3.11 or newer was found: install one, such as the package python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

say "making a virtual environment in .venv with Python $version"
rm -rf .venv
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    apt_install "python$version-venv"
fi
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(sed -n 's/^uv==//p' "$lock")"
say "installing the packages of $lock"
# Compiled now, since otherwise every start of ansible compiles again where Python may not write.
UV_NATIVE_TLS=1 .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode -r "$lock"
sha256sum "$lock" >"$stamp"
