"""This machine, and the hosts named in ``hosts.yaml``: no Slurm, no Kubernetes, no daemon."""

from mofang.backends.local.backend import LocalBackend
from mofang.backends.local.hosts import HostEntry, load_hosts

__all__ = ["HostEntry", "LocalBackend", "load_hosts"]
