// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * exec: tells which container lives in which network namespace, before it has sent anything.
 *
 * exec_process attaches to the sched_process_exec tracepoint: a container's entrypoint is executed in its namespace and
 * cgroup a few milliseconds before its first packet, and before Docker says that it started. exec_processes is an
 * iterator (5.8) over the processes that are already there.
 */
#include "include/kernel.h"
#include "exec.h"
#include "netns.bpf.h"
#include "veth.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct exec_config config;

/* Puts the type of the records into the object's BTF, for the Go side. */
const struct exec_process *exec_process_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* 2,700 processes: what starts between two reads */
} execs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} exec_lost SEC(".maps");

/* Notes the veths of net whose other end is in the host's namespace: through them the container will send. */
static __always_inline void read_ports(struct net *net, struct exec_port ports[EXEC_PORTS])
{
	struct list_head *head = (void *)net + bpf_core_field_offset(net->dev_base_head);
	struct list_head *entry = BPF_CORE_READ(net, dev_base_head.next);
	struct net_device *device, *peer;
	__u32 found = 0;

	for (int i = 0; i < NETDEV_SCAN && entry && entry != head && found < EXEC_PORTS; i++) {
		device = (void *)entry - bpf_core_field_offset(device->dev_list);
		entry = BPF_CORE_READ(entry, next);
		peer = veth_peer(device);
		if (!peer || BPF_CORE_READ(peer, nd_net.net, ns.inum) != config.host_netns)
			continue;
		ports[found & (EXEC_PORTS - 1)].ifindex = BPF_CORE_READ(device, ifindex);
		ports[found & (EXEC_PORTS - 1)].peer = BPF_CORE_READ(peer, ifindex);
		found++;
	}
}

/* Fills process and tells whether it is one, with a namespace. */
static __always_inline bool describe(struct task_struct *task, struct exec_process *process)
{
	struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);

	if (!net)
		return false;
	process->netns_inode = BPF_CORE_READ(net, ns.inum);
	process->netns = netns_of(net);
	process->pid = BPF_CORE_READ(task, tgid);
	read_task_container(task, process->cgroup);
	if (process->netns_inode != config.host_netns)
		read_ports(net, process->ports);
	return true;
}

SEC("tp_btf/sched_process_exec")
int exec_started(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct exec_process process = {};
	__u32 slot = 0;
	__u64 *lost;

	if (BPF_CORE_READ(task, nsproxy, net_ns, ns.inum) == config.host_netns)
		return 0;
	if (!describe(task, &process) || !process.cgroup[0])
		return 0;
	if (!bpf_ringbuf_output(&execs, &process, sizeof(process), 0))
		return 0;
	lost = bpf_map_lookup_elem(&exec_lost, &slot);
	if (lost)
		*lost += 1;
	return 0;
}

SEC("iter/task")
int exec_running(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct exec_process process = {};

	if (!task || task->pid != task->tgid)
		return 0;
	if (describe(task, &process))
		bpf_seq_write(ctx->meta->seq, &process, sizeof(process));
	return 0;
}
