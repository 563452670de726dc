/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the exec signal shares with user space. */
#ifndef BRIDGEWATCH_EXEC_H
#define BRIDGEWATCH_EXEC_H

#include "include/kernel.h"

struct exec_config {
	__u32 host_netns; /* inode number */
	__u32 pad;
};

#define EXEC_PORTS 4

/* A veth of a namespace whose other end is in the host's. */
struct exec_port {
	__u32 ifindex;
	__u32 peer; /* ifindex of the other end; 0: no port */
};

/* A process in a network namespace that is not the host's. */
struct exec_process {
	__u64 netns; /* cookie, or inode number where the kernel has no cookies */
	__u32 netns_inode;
	__u32 pid; /* thread group, in the initial pid namespace */
	struct exec_port ports[EXEC_PORTS];
	char cgroup[80]; /* nearest cgroup whose name can carry a container's ID, "" if there is none */
};

#endif
