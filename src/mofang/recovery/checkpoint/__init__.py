"""Durable checkpoints: sharded safetensors and a JSON manifest of global shapes, readable at any world size.

``manifest`` and ``files`` know nothing of torch; ``save`` and ``load`` move tensors.
"""
