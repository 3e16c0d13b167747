"""What a host can do, measured in under half a minute: ``python -m mofang.backends.local.probe``.

The probe runs as a process of its own on the host it measures, reached through that host's prefix. It prints one JSON
object a line: ``{"progress": 0.4, "what": "..."}`` while it works, and ``{"rates": {...}}`` (``HostRates``) at the end.
"""
