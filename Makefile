# What can be done with a checkout. `make help` lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
CACHE ?= $(CURDIR)/.cache
ORT_VERSION := 1.32.0
ORT := $(CACHE)/onnxruntime-$(ORT_VERSION)/libonnxruntime.so.$(ORT_VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
LDFLAGS := -X main.version=$(VERSION)

export MILLRACE_CACHE := $(CACHE)
export CGO_ENABLED := 1
# Tests and programs started from here use the pinned library.
export MILLRACE_ONNXRUNTIME := $(ORT)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## build, start with the sample models, print a request that works
	@deploy/run.sh

.PHONY: build
build: runtime ## build bin/millrace and fetch ONNX Runtime
	go build -ldflags "$(LDFLAGS)" -o bin/millrace ./cmd/millrace

.PHONY: runtime
runtime: ## fetch ONNX Runtime into the cache
	@deploy/fetch-onnxruntime.sh "$(CACHE)" >/dev/null

.PHONY: browser
browser: ## install Chromium for the tests of pages, where there is none
	@deploy/fetch-browser.sh

.PHONY: test
test: runtime browser ## run every test, end to end and with the Python clients too
	go test -timeout 30m ./...
	go test -tags invariants ./runtime/batch

.PHONY: test-peers
test-peers: runtime ## run the tests with peers that take long to build, such as Gitea
	go test -timeout 60m -tags peers ./registry/source ./control/trigger/pipeline
	go test -timeout 60m -tags peers -run '^TestReal' ./cmd/millrace/delivery
	go test -timeout 60m -tags peers ./examples/loop

.PHONY: check
check: runtime ## vet, staticcheck, gofmt and the short tests; under 3 minutes
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || \
		{ echo "these files are not formatted; run gofmt -w on them:"; \
		gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go test -short ./...

.PHONY: bench
bench: build ## measure against the limits and renew docs/performance.md; ten minutes
	go run ./bench/cmd/compare

.PHONY: bench-drift
bench-drift: ## measure drift detection beside others' and renew docs/drift.md; ten minutes
	go run ./drift/bench

.PHONY: loop
loop: build ## show a model heal: drift, alarm, retraining, rollout; ten minutes. KEEP=1 stays up
	@python3 examples/loop/loop.py $(if $(KEEP),--keep)

.PHONY: release
release: runtime ## build dist/millrace-linux-amd64: one file with ONNX Runtime inside
	@deploy/release.sh "$(ORT)" "$(VERSION)"

.PHONY: models
models: ## train the sample models of configs/models anew
	configs/train/train.sh

.PHONY: docs
docs: ## renew the pages of docs/ that are made from the code
	go generate ./cmd/... ./control/... ./runtime/model/...

.PHONY: clean
clean: ## remove what was built; the cache stays
	rm -rf bin dist runtime/ort/embedded/*.zst
