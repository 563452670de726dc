// SPDX-License-Identifier: Apache-2.0

// Package loader reads the kernel: it loads and attaches the BPF programs of each signal, follows links and network
// namespaces, and turns what the kernel's tables hold into records.
//
// Every signal is an object of its own ([Drops], [Flows], [Execs]) that loads, fails and is closed on its own. Their
// Read methods hand out what was counted since the last Read, exactly: see table.
//
// Nothing in here changes a packet, a setting or a rule. Nothing logs; errors are returned.
package loader
