#!/usr/bin/env bash
# Starts bin/millrace with the sample models on the usual ports and, as soon as
# it answers, prints where it is and a request that works.
set -euo pipefail
cd "$(dirname "$0")/.."

http=127.0.0.1:8000 grpc=127.0.0.1:8001 admin=127.0.0.1:8002
server=$$

announce() {
	until bin/millrace models --url "http://$http" >/dev/null 2>&1; do
		kill -0 $server 2>/dev/null || return
		sleep 0.05
	done
	cat >&2 <<TEXT

  REST     http://$http/v2
  gRPC     $grpc
  metrics  http://$admin/metrics

The class of a written digit, a 7, by the highest of ten scores:

  curl -s -d @configs/models/digits/sample.json http://$http/v2/models/digits/infer

Ctrl-C stops the server.
TEXT
}

announce &
exec bin/millrace serve --models configs/models --http $http --grpc $grpc --admin $admin
