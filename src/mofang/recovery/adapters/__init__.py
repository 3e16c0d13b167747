"""The ``Checkpointer`` inside other people's training loops, one module a framework; each imports its framework."""
