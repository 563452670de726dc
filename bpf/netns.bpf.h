/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Names for network namespaces and for the cgroups of their processes. */
#ifndef BRIDGEWATCH_NETNS_BPF_H
#define BRIDGEWATCH_NETNS_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define CGROUP_NAME_SIZE 80 /* docker-<64 hex digits>.scope and its zero byte */
#define CONTAINER_NAME_MIN 65 /* 64 hex digits and the zero byte */
#define CGROUP_DEPTH 4

/*
 * A namespace's number in all our records: its cookie, which is never used twice, and where the kernel has none
 * (before 5.12) its inode number, which is. net is a pointer that no verifier vouches for.
 */
static __always_inline __u64 netns_of(const struct net *net)
{
	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return BPF_CORE_READ(net, ns.inum);
}

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *kn)
{
	struct kernfs_node___rcu *rcu = (void *)kn;

	if (bpf_core_field_exists(rcu->__parent))
		return BPF_CORE_READ(rcu, __parent);
	return BPF_CORE_READ(kn, parent);
}

/*
 * Reads the name of the nearest cgroup at or above kn that is long enough to carry a container's ID. A container may
 * have made cgroups below its own (systemd does), hence the walk upwards.
 */
static __always_inline bool read_container_cgroup(struct cgroup *cgroup, char name[CGROUP_NAME_SIZE])
{
	struct kernfs_node *kn = BPF_CORE_READ(cgroup, kn);

	for (int i = 0; i < CGROUP_DEPTH && kn; i++) {
		if (bpf_probe_read_kernel_str(name, CGROUP_NAME_SIZE, BPF_CORE_READ(kn, name)) >= CONTAINER_NAME_MIN)
			return true;
		kn = kernfs_parent(kn);
	}
	name[0] = 0;
	return false;
}

/* The same for a task: first the unified hierarchy, then two controllers that every engine uses on cgroup v1. */
static __always_inline bool read_task_container(struct task_struct *task, char name[CGROUP_NAME_SIZE])
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css;

	if (read_container_cgroup(BPF_CORE_READ(set, dfl_cgrp), name))
		return true;
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id)) {
		bpf_core_read(&css, sizeof(css),
			      &set->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)]);
		if (read_container_cgroup(BPF_CORE_READ(css, cgroup), name))
			return true;
	}
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id)) {
		bpf_core_read(&css, sizeof(css),
			      &set->subsys[bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id)]);
		if (read_container_cgroup(BPF_CORE_READ(css, cgroup), name))
			return true;
	}
	return false;
}

#endif
