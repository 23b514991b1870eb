// SPDX-License-Identifier: GPL-2.0
/* Empty probes, for benchmarks/peers.py: the cost of the kernel's traps alone. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("uprobe")
int on_call(void *ctx)
{
	(void)ctx;
	return 0;
}

/* In a uprobe session: declines the return of each call. */
SEC("uprobe")
int on_declined_call(void *ctx)
{
	(void)ctx;
	return 1;
}

char _license[] SEC("license") = "GPL";
