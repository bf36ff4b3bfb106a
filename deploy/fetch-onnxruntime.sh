#!/usr/bin/env bash
# Puts ONNX Runtime for the CPU into a cache folder and prints the library's path.
#
#   deploy/fetch-onnxruntime.sh [FOLDER]      default: .cache of this checkout
#
# The library comes out of the Python package of one exact version, through pip
# and whatever package index pip is set up for. Wheel and library are held
# against the SHA-256 sums below. Everything happens in a temporary folder; the
# library gets its name by one rename, when it is known to be right.
set -euo pipefail

version=1.32.0
wheel=onnxruntime-$version-cp311-cp311-manylinux_2_28_x86_64.whl
wheel_sum=5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d
library=libonnxruntime.so.$version
library_sum=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f

cache=${1:-$(cd "$(dirname "$0")/.." && pwd)/.cache}
folder=$cache/onnxruntime-$version

fail() {
	echo "cannot fetch ONNX Runtime $version: $1" >&2
	exit 1
}

# holds FILE SUM: whether the file has that SHA-256 sum.
holds() {
	[ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]
}

if holds "$folder/$library" $library_sum; then
	echo "$folder/$library"
	exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || fail "there is a pinned library for Linux x86_64 only;
set MILLRACE_ONNXRUNTIME to a libonnxruntime.so of your own"
command -v python3 >/dev/null || fail "python3 is not there; install it"
python3 -m pip --version >/dev/null 2>&1 ||
	fail "python3 has no pip; install it (Debian: python3-pip)"

mkdir -p "$cache" || fail "the cache folder $cache cannot be made"
work=$(mktemp -d "$cache/fetch.XXXXXX") || fail "the cache folder $cache cannot be written to"
trap 'rm -rf "$work"' EXIT
# What a run left that was killed outright; one under way is younger.
find "$cache" -maxdepth 1 -name 'fetch.??????' -mmin +60 -exec rm -rf {} +

echo "fetching ONNX Runtime $version (18 MB)" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
	--only-binary=:all: --implementation cp --python-version 3.11 \
	--platform manylinux_2_28_x86_64 --dest "$work" "onnxruntime==$version" >&2 ||
	fail "pip could not download it (see above); check the network and pip's index, then try again"

[ -f "$work/$wheel" ] || fail "pip gave another file than $wheel"
holds "$work/$wheel" $wheel_sum ||
	fail "the wheel has the wrong SHA-256 sum: it is damaged or not the
published one; try again, and do not use it if the message stays"

python3 - "$work/$wheel" "onnxruntime/capi/$library" "$work/$library" <<'PYTHON' ||
import shutil, sys, zipfile
wheel, member, to = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open(member) as src, open(to, "wb") as dst:
    shutil.copyfileobj(src, dst)
PYTHON
	fail "the wheel could not be unpacked into $cache; is the disk full?"
holds "$work/$library" $library_sum || fail "the unpacked library has the wrong SHA-256 sum"

mkdir -p "$folder" && mv -fT "$work/$library" "$folder/$library" ||
	fail "the library could not be put into $folder"
echo "$folder/$library"
