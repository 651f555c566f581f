#!/usr/bin/env bash
# Makes the environment in .venv and installs the project into it, for the Makefile.
#
#   bootstrap.sh PYTHON VENV EXTRAS STAMP...
#
# The stamps are touched last of all, so an interrupted run leaves none; what it leaves of the
# environment is marked unfinished and is made anew the next time.
set -euo pipefail

python=$1 venv=$2 extras=$3
shift 3
unfinished="$venv/.unfinished"
needs="this project needs Python 3.11 or newer with the venv module"

stop() {
    echo "make: $1" >&2
    exit 2
}

usable() { # an environment that can install: right version, pip there, not cut short before
    [ ! -e "$unfinished" ] && "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if ! usable; then
    command -v "$python" >/dev/null 2>&1 ||
        stop "found no command '$python'; $needs: install it, or name it as in 'make PYTHON=python3.11 …'"
    version=$("$python" -c 'import sys; print("%d.%d.%d" % tuple(sys.version_info[:3]))' 2>/dev/null) ||
        stop "found '$python', but it does not run; $needs: install it, or name it as in 'make PYTHON=python3.11 …'"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "found '$python' of version $version; $needs: install it, or name it as in 'make PYTHON=python3.11 …'"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        stop "found '$python' of version $version without its venv module; $needs: install it (Debian, Ubuntu: apt install python3-venv), or name another as in 'make PYTHON=python3.11 …'"
    rm -rf "$venv"
    mkdir "$venv"
    touch "$unfinished"
    "$python" -m venv "$venv" || { rm -rf "$venv"; stop "'$python' of version $version could not make $venv; $needs"; }
fi

touch "$unfinished"
echo "Installing the project with [$extras] into $venv; the first time takes some minutes."
"$venv/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$extras]" ||
    stop "pip could not install the project (its own message is above); mend the cause and run the same command again"
rm "$unfinished"
touch "$@"
