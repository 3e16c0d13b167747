"""The job file: every key, its type and what it means, one module a kind; the JSON schema is made of them."""

from mofang.spec.schema.files import json_schema
from mofang.spec.schema.section import Section, nearest

__all__ = ["Section", "json_schema", "nearest"]
