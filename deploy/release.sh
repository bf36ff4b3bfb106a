#!/usr/bin/env bash
# Builds millrace-linux-amd64: one file that needs libc and nothing else.
#
#   deploy/release.sh LIBRARY VERSION [FOLDER]      default: dist of this checkout
#
# LIBRARY, a libonnxruntime.so, goes inside, packed, with the C++ libraries of
# this machine that it needs. The binary starts on systems whose glibc is at
# least as new as this machine's; build on the oldest system to be served.
set -euo pipefail

fail() {
	echo "cannot build the release: $1" >&2
	exit 1
}

[ $# = 2 ] || [ $# = 3 ] || fail "usage: deploy/release.sh LIBRARY VERSION [FOLDER]"
library=$(realpath "$1") version=$2 folder=$(realpath -m "${3:-$(dirname "$0")/../dist}")
[ -f "$library" ] || fail "there is no $1; make runtime fetches it"
cd "$(dirname "$0")/.."

embedded=runtime/ort/embedded
mkdir -p $embedded "$folder"
trap 'rm -f $embedded/*.zst' EXIT

# pack NAME FILE: puts a library where the build tag embedort embeds it from.
pack() { go run ./deploy/compress "$2" "$embedded/$1.zst"; }

pack libonnxruntime.so "$library"
for name in libstdc++.so.6 libgcc_s.so.1; do
	file=$(${CXX:-g++} -print-file-name=$name)
	[ -f "$file" ] || fail "$name is not there; install g++"
	pack $name "$file"
done

go build -trimpath -tags embedort -ldflags "-s -w -X main.version=$version" \
	-o "$folder/millrace-linux-amd64" ./cmd/millrace
(cd "$folder" && sha256sum millrace-linux-amd64 >millrace-linux-amd64.sha256)
bytes=$(stat -c %s "$folder/millrace-linux-amd64")
echo "$folder/millrace-linux-amd64, $((bytes / 1000000)) MB"
