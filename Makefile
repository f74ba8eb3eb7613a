# Slacker. `make` or `make help` lists the targets.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX ?= /usr/local
GO ?= go
FUZZTIME ?= 10s
PROGRAMS := slackerd slackerctl slacker-client slacker-snapshotter

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages and Go modules that building and testing need (root)
	./scripts/setup.sh

.PHONY: stack
stack: ## put containerd 1.6 and 2, docker-registry and peers into .cache/stack, for tests and benchmarks
	./scripts/stack.sh

.PHONY: build
build: ## build the programs into bin/, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/ $(PROGRAMS:%=./cmd/%)

.PHONY: demo
demo: ## run the main job: import an image, clone it, attach it, run redis on it (root)
	./scripts/demo.sh

.PHONY: check
check: lint test fuzz-some rig ## pass everything: lint, tests, short fuzzing, the kernel rig (root)

.PHONY: ci
ci: check ## the same as check

.PHONY: test
test: ## run the tests: with the race detector, where that is slow a part; and all of those without it
	$(GO) test -race -short ./...
	$(GO) test ./volume ./check

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, errcheck
	./scripts/lint.sh

.PHONY: rig
rig: ## test with a real kernel in QEMU: attach, server restarts, stale writes
	RIG=1 $(GO) test -count=1 -v ./rig

.PHONY: rig-systemd
rig-systemd: ## run the installed units under systemd in QEMU, with the kernel's NBD client attached
	RIG=1 $(GO) test -count=1 -v ./rig -run TestSystemd -rig.systemd

.PHONY: rig-soak
rig-soak: ## databases on the kernel's NBD client while everything fails, ROUNDS (3) times, in plaintext and TLS, TIMEOUT (5s); forced detaches
	RIG=1 $(GO) test -count=1 -v -timeout 120m ./rig -run 'TestSoak|TestForcedDetach|TestStaleWriteOverTLS' -rig.all -rig.rounds $(or $(ROUNDS),3) -rig.timeout $(or $(TIMEOUT),5s)

.PHONY: fuzz
fuzz: ## run every fuzzer for FUZZTIME (10s)
	./scripts/fuzz.sh $(FUZZTIME)

.PHONY: fuzz-some
fuzz-some: ## run the fuzzers of the NBD server and of the extent map over a few thousand inputs each
	./scripts/fuzz.sh 6000x ./nbdserver ./cow

.PHONY: newer-clients
newer-clients: ## test the NBD server with libnbd and QEMU of Debian 13, which it unpacks (46 MB)
	./scripts/newer-clients.sh

.PHONY: soak
soak: ## end the server, the network and workers' processes under databases, ROUNDS (10) times (root)
	$(GO) test ./bench/soak -count=1 -v -timeout 60m -soak.agents -soak.rounds $(or $(ROUNDS),10)

.PHONY: plant
plant: ## plant bugs in a copy of the tree and want the tests to catch each
	./scripts/plant.sh

.PHONY: pagesizes
pagesizes: ## test the store with smaller pages of the extent map
	./scripts/pagesizes.sh

KILLS ?= 200
.PHONY: soak-kill
soak-kill: ## kill the server KILLS (200) times under load of NBD and the admin API
	$(GO) test -count=1 -timeout 0 -v -run TestKillUnderLoad ./cmd/slackerd -kill.rounds $(KILLS)

.PHONY: bench
bench: build ## measure the store, and the server beside nbdkit and qemu-nbd
	$(GO) test ./bench -run '^$$' -bench .
	$(GO) run ./bench/nbdpeers -slackerd bin/slackerd

.PHONY: bench-depth
bench-depth: ## measure first, second and random reads at depth 1 and 1,000, by turns
	$(GO) test ./bench -run '^$$' -bench 'BenchmarkTouch|BenchmarkDepth' -benchtime 1x -v

.PHONY: bench-sweep
bench-sweep: ## time snapshot, clone and delete over sizes, extents, depths and numbers of volumes
	$(GO) test ./bench -run '^$$' -bench BenchmarkSweep -benchtime 1x -v

.PHONY: bench-upgrades
bench-upgrades: build ## measure how long clients wait while slackerd is upgraded, by step
	$(GO) run ./bench/upgrades -slackerd bin/slackerd

.PHONY: bench-slowlink
bench-slowlink: build ## measure starts over slow links with the worker's cache off, cold, with a boot trace, and warm (root)
	$(GO) run ./bench/slowlink -bin bin

.PHONY: bench-collect
bench-collect: ## measure what the collector costs clients that read and overwrite at full speed
	$(GO) test ./bench -run '^$$' -bench BenchmarkCollect -benchtime 1x -v

.PHONY: bench-sharing
bench-sharing: build ## measure what a client that flushes and one that only writes take from each other
	$(GO) run ./bench/sharing -slackerd bin/slackerd

.PHONY: bench-attach
bench-attach: build ## time clone, attach and mount of a warm ext4 volume, by step (root)
	$(GO) run ./bench/attach -bin bin -rounds 100

.PHONY: bench-attach-rig
bench-attach-rig: ## the same with the kernel's NBD client, in QEMU
	RIG=1 $(GO) test -count=1 -v ./rig -run TestAttachSteps -rig.attach 20

.PHONY: bench-memory
bench-memory: ## measure the heap with 100,000 volumes, 1,000 of them open
	$(GO) test ./volume -count=1 -v -run TestMemoryIsBounded -memory.volumes 100000 -memory.open 1000 -memory.blocks 200

.PHONY: clients
clients: build ## run real images by ctr, nerdctl, crictl and docker on the snapshotter (root, some minutes)
	./scripts/clients.sh

# What is built and made of it is kept in HELLOBENCH_CACHE. RUN is the name of a run: one that was stopped goes on,
# another name begins anew. BUDGET bounds the time of a record.
HELLOBENCH_CACHE ?= .cache/hellobench
RUN ?= full
BUDGET ?= 40m
HELLOBENCH_FLAGS ?=
HELLOBENCH_REPORT ?= -readme README.md
HELLOBENCH := bin/hellobench

.PHONY: hellobench-build
hellobench-build: build stack
	$(GO) build -o $(HELLOBENCH) ./bench/hellobench

.PHONY: hellobench-images
hellobench-images: ## build the image set of HelloBench from Debian packages into .cache/hellobench (root, half an hour)
	$(GO) run ./bench/hellobench build -cache $(HELLOBENCH_CACHE)
	$(GO) run ./bench/hellobench images -cache $(HELLOBENCH_CACHE)

.PHONY: hellobench-prepare
hellobench-prepare: hellobench-build hellobench-images ## and import and convert it for all drivers, once (root, 25 GB, half an hour)
	$(HELLOBENCH) measure -cache $(HELLOBENCH_CACHE) -name prepared -prepare-only -links unlimited
	$(HELLOBENCH) measure -cache $(HELLOBENCH_CACHE) -name prepared -prepare-only -links unlimited -drivers slacker-containerd,slacker,stargz gcc:9 gcc:10 gcc:11 gcc:12 gcc:13 gcc:14
	$(HELLOBENCH) space -cache $(HELLOBENCH_CACHE) -name prepared

.PHONY: hellobench
hellobench: hellobench-prepare hellobench-record ## compare container starts on the image set, report into bench/results (root)

.PHONY: hellobench-record
hellobench-record: hellobench-build ## measure what is prepared, for BUDGET (40m) at most, and write the report (root)
	$(HELLOBENCH) record -cache $(HELLOBENCH_CACHE) -name $(RUN) -budget $(BUDGET) $(HELLOBENCH_FLAGS); status=$$?; \
		$(HELLOBENCH) space -cache $(HELLOBENCH_CACHE) -name $(RUN) && \
		$(HELLOBENCH) report -cache $(HELLOBENCH_CACHE) -name $(RUN) $(HELLOBENCH_REPORT) && exit $$status

.PHONY: hellobench-quick
hellobench-quick: ## the same on four images, from nothing, without a recorded report (root, less than five minutes)
	@started=$$(date +%s) && $(MAKE) --no-print-directory hellobench-quick-run && \
		echo "make hellobench-quick took $$(($$(date +%s) - started)) s; the page is $(HELLOBENCH_CACHE)/quick.html"

QUICK := busybox hello-world redis httpd
.PHONY: hellobench-quick-run
hellobench-quick-run: hellobench-build
	$(HELLOBENCH) build -cache $(HELLOBENCH_CACHE) $(QUICK)
	$(HELLOBENCH) measure -cache $(HELLOBENCH_CACHE) -name quick-$$(date +%s) -links unlimited,100m -what cycle,scale \
		-slow-drivers overlayfs,stargz,slacker-containerd,slacker -starts 1,4 -scale-images redis $(QUICK)
	$(HELLOBENCH) report -cache $(HELLOBENCH_CACHE) -name $$(ls -t $(HELLOBENCH_CACHE)/runs | grep quick- | head -1) \
		-out $(HELLOBENCH_CACHE)/quick -command 'make hellobench-quick'

.PHONY: man
man: build ## write the manual pages into dist/man
	for p in $(PROGRAMS); do ./bin/$$p man dist/man || exit 1; done

.PHONY: install
install: build man ## install programs, manual pages, completions and systemd units below PREFIX
	./scripts/install.sh '$(PREFIX)' '$(DESTDIR)'

.PHONY: clean
clean: ## remove what was built; .cache (kernel, images) stays
	rm -rf bin dist
