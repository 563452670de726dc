// SPDX-License-Identifier: Apache-2.0

// Package lab is the place where Bridgewatch is proven: a host of its own with a real Docker engine, traffic that is
// counted by those who send it, and counters of the kernel to hold the agent's against.
//
// The host is made of a network and a mount namespace, entered by [Main]. What a test leaves behind (rules, links,
// mounts, processes) ends with it, the machine's own Docker is neither seen nor touched, and two labs can run side by
// side. Beyond the host's uplink lies a namespace "outside", which stands for the rest of the world.
//
// A [Swarm] has two hosts more, its nodes, each with an engine and an agent, and a switch between them.
//
// Traffic is made by system calls of the process that sends. See the program in e2e/traffic.
package lab
