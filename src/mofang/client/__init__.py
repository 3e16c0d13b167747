"""One API to the controller, the only way in for commands and programs."""

from mofang.client.client import Client, LogText, Submitted

__all__ = ["Client", "LogText", "Submitted"]
