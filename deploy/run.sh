#!/usr/bin/env bash
# Starts bin/millrace with the sample models on the usual ports, or those of
# HTTP, GRPC and ADMIN, and, as soon as it listens, prints where it is and a
# request that works.
set -euo pipefail
cd "$(dirname "$0")/.."

# announce passes the server's lines on and adds to the ones that matter. The
# addresses are those that the server says: a port of 0 becomes a real one.
announce() {
	trap '' INT TERM # the server ends, and with it its lines
	while IFS= read -r line; do
		printf '%s\n' "$line" >&2
		case $line in
		'listening '*) welcome "$line" ;;
		*'is taken by another program'*)
			printf '\nOther ports: make run HTTP=%s GRPC=%s ADMIN=%s\n' \
				127.0.0.1:0 127.0.0.1:0 127.0.0.1:0 >&2
			;;
		esac
	done
}

# address_of prints what a listening line says of http, grpc or admin.
address_of() { sed -n "s/.* $2=\([^ ]*\).*/\1/p" <<<"$1"; }

welcome() {
	local http
	http=$(address_of "$1" http)
	cat >&2 <<TEXT

  page     http://$http/docs
  REST     http://$http/v2
  gRPC     $(address_of "$1" grpc)
  metrics  http://$(address_of "$1" admin)/metrics

The class of a written digit, a 7, by the highest of ten scores:

  curl -s -d @configs/models/digits/sample.json http://$http/v2/models/digits/infer

The species of an iris, by its measures:

  curl -s -d '[5.1, 3.5, 1.4, 0.2]' http://$http/predict/iris

Ctrl-C stops the server.
TEXT
}

exec bin/millrace serve --models configs/models --http "${HTTP:-127.0.0.1:8000}" \
	--grpc "${GRPC:-127.0.0.1:8001}" --admin "${ADMIN:-127.0.0.1:8002}" 2> >(announce)
