// SPDX-License-Identifier: Apache-2.0

// Package e2e proves Bridgewatch on a real Docker engine: what the agent counts is held against counters of the
// kernel that are not the agent's, and against what the senders say.
//
// The tests need root, Debian's docker.io, busybox-static, prometheus, gcc and musl-tools, and iproute2, iptables and
// nftables. They run on a host of their own; see package lab.
//
// Those with the build tag kernel need what this machine's kernel may lack, which is IPVS, IPsec and ipvlan: "make test-vm" runs
// them on one that has it.
package e2e
