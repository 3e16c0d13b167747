"""What every training recipe shares: the loop, its optimiser, data parallelism, checkpoints and reports.

What a start costs is what a recovery costs, so modules here import torch and nothing else that is big.
"""
