// SPDX-License-Identifier: GPL-2.0
/* Probes that do nothing: what the kernel alone takes for the traps, for benchmarks/peers.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("uprobe")
int on_call(void *ctx)
{
	(void)ctx;
	return 0;
}

/* As a session: declines the return of each call. */
SEC("uprobe")
int on_declined_call(void *ctx)
{
	(void)ctx;
	return 1;
}

char _license[] SEC("license") = "GPL";
