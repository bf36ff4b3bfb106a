#!/usr/bin/env bash
# Sees to it that there is a Chromium for the tests of pages: Debian's package,
# since no registry of a language has one.
set -euo pipefail

if command -v chromium >/dev/null; then
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "there is no chromium on the PATH, and no apt-get to install it; install Chromium" >&2
	exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
	as_root=(sudo -n)
fi
echo "installing Debian's chromium for the tests of pages" >&2
if ! { "${as_root[@]}" apt-get update -q &&
	"${as_root[@]}" apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; } \
	>/dev/null; then
	echo "cannot install the package chromium; install it as root and try again" >&2
	exit 1
fi
