#!/bin/sh
# Installs a checkout, in the versions of constraints.txt: `make install` and the image call it.
#
#   deploy/install.sh PYTHON WHAT…      WHAT: as pip takes it, for example --editable '.[dev]'
set -eu

python=$1
shift

# torch first and by itself: what it brings is then already there when the rest is resolved.
torch=$(grep '^torch==' constraints.txt)
"$python" -m pip install --quiet --constraint constraints.txt "$torch"
"$python" -m pip install --quiet --constraint constraints.txt "$@"
