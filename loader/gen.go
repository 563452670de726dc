// SPDX-License-Identifier: Apache-2.0

package loader

// One BPF object per signal. The compiler and its flags come from the Makefile (BPF2GO_CC, BPF2GO_STRIP, BPF2GO_CFLAGS).
//go:generate go tool bpf2go -tags linux -target bpfel -type drop_key -type drop_value -type drop_flag -type drop_counter drop ../bpf/drop.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -type flow_key -type flow_value -type flow_counter -type flow_direction flow ../bpf/flow.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -type exec_process exec ../bpf/exec.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -type egress_subnet -type coarse_bits -type egress_key -type egress_value -type egress_counter egress ../bpf/egress.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -type nat_record -type nat_tuple -type nat_endpoint -type nat_event -type nat_masquerade -type nat_counter nat ../bpf/nat.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -type dns_packet -type dns_counter dns ../bpf/dns.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -type overlay_ports -type overlay_key -type overlay_value -type overlay_channel -type overlay_counter overlay ../bpf/overlay.bpf.c

// Of the tests, which run what a tracepoint's program does as one of type tc, and programs that do nothing.
//go:generate go tool bpf2go -tags linux -target bpfel -output-suffix _test -type tuple parseTwin ../bpf/parse_twin.bpf.c
//go:generate go tool bpf2go -tags linux -target bpfel -output-suffix _test emptyTwin ../bpf/empty_twin.bpf.c
