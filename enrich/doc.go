// SPDX-License-Identifier: Apache-2.0

// Package enrich gives meaning to what the loader reads: which container, service, stack and network a count belongs to,
// where it happened, and what caused it.
//
// It reads the Docker API, with GET requests only, and knows nothing of BPF, of metrics, or of how anybody gets to see
// the result. [State] is what it knows; [Docker] keeps it in step with the engine.
package enrich
