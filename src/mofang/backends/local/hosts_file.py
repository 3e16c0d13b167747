"""The shape of ``hosts.yaml``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["HostInFile", "HostsFile"]


class HostInFile(BaseModel):
    """One host."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1)
    address: str = Field(min_length=1)
    prefix: list[str] = Field(min_length=1)
    domain: str = Field(default="", max_length=100)  # what it fails together with


class HostsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    domain: str = Field(default="", max_length=100)  # of the machine that the file is on
    hosts: list[HostInFile]
