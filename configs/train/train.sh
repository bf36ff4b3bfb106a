#!/bin/sh
# Trains every sample model of configs/models anew, in a venv of its own.
#   configs/train/train.sh [NAME...]
# The venv lies in ${MILLRACE_CACHE:-.cache}/train and is kept between runs.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
models=$here/../models
venv=${MILLRACE_CACHE:-$here/../../.cache}/train
python=$venv/bin/python

[ -x "$python" ] || python3 -m venv "$venv"
"$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"

# One thread and fixed seeds: the same machine trains the same weights each time.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONHASHSEED=0
export PYTHONPATH="$here" PYTHONDONTWRITEBYTECODE=1

if [ $# -eq 0 ]; then
	for script in "$models"/*/train.py; do
		set -- "$@" "$(basename -- "$(dirname -- "$script")")"
	done
fi
for name in "$@"; do
	echo "training $name"
	"$python" "$models/$name/train.py"
done
