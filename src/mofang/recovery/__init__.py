"""Recovery: the node agent that keeps workers running, and the checkpoints they go on from.

Everything here starts fast: nothing heavy is imported until it is asked for.
"""
