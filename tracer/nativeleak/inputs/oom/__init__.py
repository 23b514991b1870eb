"""OOM kills, as logs tell of them: the kernel's OOM killer, killers in user space, Kubernetes."""

from nativeleak.inputs.oom.reader import OomReader, is_oom_log, parse_oom

__all__ = ["OomReader", "is_oom_log", "parse_oom"]
