#!/usr/bin/env bash
# Renews the generated Go of both .proto files. Needs python3 and go.
set -euo pipefail
cd "$(dirname "$0")/../../.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" -q install grpcio-tools==1.76.0
GOBIN="$tools" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN="$tools" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
PATH="$tools:$PATH" "$tools/venv/bin/python" -m grpc_tools.protoc \
  -I runtime/model/configpb -I gateway/grpc/pb \
  --go_out=. --go_opt=module=github.com/millrace-ml/millrace \
  --go-grpc_out=. --go-grpc_opt=module=github.com/millrace-ml/millrace \
  model_config.proto grpc_service.proto
