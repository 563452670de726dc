# SPDX-License-Identifier: Apache-2.0

VERSION       := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LLVM          ?= 14
GOLANGCI_LINT ?= v2.15.0
# Where git cannot say the version (no repository, another owner), Go need not try and fail.
BUILDVCS      := $(if $(filter unknown,$(VERSION)),-buildvcs=false)
SUDO          := $(if $(filter 0,$(shell id -u)),,sudo)

# Debian packages, by what they are for. Only those that are missing are installed.
PACKAGES_GENERATE := clang-$(LLVM) llvm-$(LLVM) libbpf-dev
PACKAGES_LINT     := clang-format-$(LLVM) prometheus prometheus-alertmanager
PACKAGES_DEMO     := docker.io apparmor iptables kmod procps busybox-static
PACKAGES_TEST     := $(PACKAGES_DEMO) iproute2 nftables conntrack ipvsadm ethtool bpftool prometheus prometheus-alertmanager gcc libc6-dev musl-tools docker-compose systemd

# Read by the go:generate lines in loader/. Paths are relative to loader/, so that none of this machine get into the objects.
export BPF2GO_CC     := clang-$(LLVM)
export BPF2GO_STRIP  := llvm-strip-$(LLVM)
export BPF2GO_CFLAGS := -O2 -g -Wall -Werror -mcpu=v2 -nostdinc -I../bpf/include -I/usr/include

LINT      := bin/tools/golangci-lint-$(GOLANGCI_LINT)
C_FILES    = $(wildcard bpf/*.c bpf/*.h bpf/include/*.h e2e/resolve/*.c)
RULES      = $(wildcard dashboards/*.rules.yml)
GENERATED  = $(wildcard loader/*_bpfel* dashboards/*.json dashboards/findings.rules.yml docs/findings/README.md)

# One target after the other: all of them want the whole machine.
.NOTPARALLEL:

.PHONY: help build run demo image generate check-generated lint fmt test test-unit collector bench setup clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

build: ## bin/bridgewatch; needs only Go
	CGO_ENABLED=0 go build -trimpath $(BUILDVCS) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/bridgewatch ./cmd/bridgewatch

run: build ## run the agent on this host, as root; flags in ARGS
	$(SUDO) bin/bridgewatch run $(ARGS)

demo: build ## a small app with a fault in it, and what Bridgewatch says about it
	@.ci/setup $(PACKAGES_DEMO)
	@$(SUDO) e2e/demo/demo.sh

image: build ## bridgewatch:latest, the agent's container image, on this host's Docker
	mkdir -p bin/image && cp bin/bridgewatch bin/image/
	docker build --file deploy/Dockerfile --tag bridgewatch:latest --tag bridgewatch:$(VERSION) bin/image

generate: ## compile bpf/, and write the bindings in loader/, the alerts and dashboards, and the index of findings
	@.ci/setup $(PACKAGES_GENERATE)
	go generate ./...

check-generated: ## fail if what make generate writes is not what is there
	@before=$$(sha256sum $(GENERATED)); $(MAKE) --no-print-directory generate; \
	test "$$before" = "$$(sha256sum $(GENERATED))" || { echo 'generated files were stale: commit what make generate wrote' >&2; exit 1; }

lint: $(LINT) ## Go, C and Prometheus rules
	@.ci/setup $(PACKAGES_LINT)
	$(LINT) run
	clang-format-$(LLVM) --dry-run -Werror $(C_FILES)
	promtool check rules $(RULES)
	promtool check config dashboards/scrape.yml
	amtool check-config dashboards/alertmanager.yml

fmt: $(LINT) ## format Go and C
	@.ci/setup $(PACKAGES_LINT)
	$(LINT) fmt
	clang-format-$(LLVM) -i $(C_FILES)

$(LINT):
	GOBIN=$(CURDIR)/bin/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv bin/tools/golangci-lint $@

# The loader's tests see all of the machine, and run beside nothing else. The lab's wait for half of their time.
test: setup lint check-generated build collector ## everything, on this kernel and a real Docker; as root, in under 20 minutes
	go test -race -count=1 -timeout 20m -exec '$(SUDO)' ./loader
	go test -race -count=1 -p 2 -timeout 40m -exec '$(SUDO)' $$(go list ./... | grep -v '/loader$$')

test-unit: ## what needs neither root nor Docker
	go test ./enrich/... ./exporters/... ./cmd/...

collector: ## bin/tools/collector, the OpenTelemetry Collector that the tests send to
	CGO_ENABLED=0 go build -C e2e/collector -trimpath $(BUILDVCS) -o $(CURDIR)/bin/tools/collector .

bench: setup ## what one run of each hook costs, one look at the host's state, one look for findings, one scrape; then traffic
	go test -run '^$$' -bench . -exec '$(SUDO)' ./loader/... ./enrich/findings ./exporters/prometheus
	go test -run '^$$' -bench Overhead -benchtime 1x -timeout 30m -exec '$(SUDO)' ./e2e

setup: ## install the Debian packages that the other targets need
	@.ci/setup $(sort $(PACKAGES_GENERATE) $(PACKAGES_LINT) $(PACKAGES_TEST))

clean: ## remove bin/
	rm -rf bin

# Kernels are kept in KERNEL_CACHE, which grows to about 1 GB.
KERNELS      ?= 5.10 6.1 6.12 7
KERNEL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bridgewatch/kernels
VM_KERNEL    ?= 6.12
VM_TESTS     ?= ^Test(Mesh|MeshBackends|Vote|Encrypted|IPvlan)$$
PACKAGES_VM  := qemu-system-x86 busybox-static kmod cpio xz-utils zstd
export KERNEL_CACHE

.PHONY: test-kernels
test-kernels: ## the loader's tests on Debian's kernels (KERNELS), in virtual machines
	@.ci/setup $(sort $(PACKAGES_TEST) $(PACKAGES_VM))
	e2e/vm/fetch-kernels.sh $(KERNELS)
	CGO_ENABLED=0 go test -c -o bin/loader.test ./loader
	@cd loader; failed=; for kernel in $(KERNELS); do \
		echo "kernel $$kernel:"; \
		$(SUDO) env KERNEL_CACHE=$(KERNEL_CACHE) LIMIT=1200 ../e2e/vm/run.sh $$kernel ../bin/loader.test -test.timeout 18m || failed="$$failed $$kernel"; \
	done; \
	test -z "$$failed" || { echo "failed on:$$failed" >&2; exit 1; }

.PHONY: test-vm
test-vm: lab-programs ## what this machine's kernel may lack (IPVS, IPsec, ipvlan) on one that has it (VM_KERNEL), in a virtual machine; VM_TESTS, 20 minutes
	@.ci/setup $(PACKAGES_VM)
	e2e/vm/fetch-kernels.sh $(VM_KERNEL)
	cd e2e && $(SUDO) env KERNEL_CACHE=$(KERNEL_CACHE) LIMIT=5400 BRIDGEWATCH_LAB_PROGRAMS=$(CURDIR)/bin/lab \
		vm/run.sh $(VM_KERNEL) ../bin/lab/e2e.test -test.run '$(VM_TESTS)' -test.v -test.timeout 85m

# The other Debian is kept in DEBIAN_CACHE, which grows to about 1 GB.
DEBIAN          ?= sid
DEBIAN_CACHE    ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bridgewatch/debian
ENGINE_TESTS    ?= ^Test(Churn|Commands|ConntrackFull|DNS|DNSFindings|Doctor|Drops|FirstPacket|Flow|HealthyHost|Lifecycle|NAT|NATWithoutProxy|Networks|PortPressure|RulesFlushed|StaleUDP|StateFindings)$$
PACKAGES_ENGINE := docker.io,docker-cli,apparmor,busybox-static,conntrack,ethtool,iproute2,iptables,kmod,nftables,procps

.PHONY: test-engine
test-engine: lab-programs ## the lab of one host on another Debian's Docker (DEBIAN; unstable has 28.5); ENGINE_TESTS
	@.ci/setup debootstrap
	test -e $(DEBIAN_CACHE)/$(DEBIAN)/usr/sbin/dockerd || \
		$(SUDO) debootstrap --variant=minbase --include=$(PACKAGES_ENGINE) $(DEBIAN) $(DEBIAN_CACHE)/$(DEBIAN)
	cd e2e && $(SUDO) env BRIDGEWATCH_LAB_PROGRAMS=$(CURDIR)/bin/lab \
		debian/run.sh $(DEBIAN_CACHE)/$(DEBIAN) ../bin/lab/e2e.test -test.run '$(ENGINE_TESTS)' -test.v -test.timeout 40m

.PHONY: lab-programs
lab-programs: # bin/lab, for machines without compilers
	@.ci/setup $(PACKAGES_TEST)
	CGO_ENABLED=0 go test -c -tags kernel -o bin/lab/e2e.test ./e2e
	CGO_ENABLED=0 go build -o bin/lab/ ./e2e/traffic ./cmd/bridgewatch
	gcc -O2 -o bin/lab/resolve-gnu e2e/resolve/resolve.c
	musl-gcc -O2 -static -o bin/lab/resolve-musl e2e/resolve/resolve.c
