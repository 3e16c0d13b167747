"""Which text is trained on when: a pure function of seed and position, so it can go on at any step on any layout."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Split", "permuted", "split_tokens"]

_MASK = (1 << 64) - 1
_ROUNDS = 4


def _mix(value: int) -> int:
    """Scramble 64 bits (the finaliser of SplitMix64, Steele, Lea and Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def permuted(index: int, size: int, key: int) -> int:
    """Return where ``index`` goes in the permutation of 0..size-1 that ``key`` names, in constant memory.

    A Feistel network on the next even number of bits, walked until it lands inside (Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(_mix(key + turn) ^ right) & mask)
        index = (left << half) | right
        if index < size:
            return index


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where training and validation text lie in the token file, and the order of training. Sizes are tokens."""

    train: int  # tokens 0..train-1 are trained on, the rest never is
    total: int
    sequence: int
    seed: int

    @property
    def train_windows(self) -> int:
        """Windows in one epoch. One window of slack lets every epoch cut the text elsewhere."""
        return max(1, (self.train - 1) // self.sequence - 1)

    def train_start(self, position: int) -> int:
        """Return the first token of the ``position``-th window since the start of training, counted over all ranks."""
        epoch, index = divmod(position, self.train_windows)
        key = _mix(_mix(self.seed) + epoch)
        slack = self.train - 1 - self.train_windows * self.sequence
        return permuted(index, self.train_windows, key) * self.sequence + key % (slack + 1)

    def epoch(self, position: int) -> float:
        """Return how many times the training text has been passed over."""
        return position / self.train_windows

    def validation_starts(self, count: int) -> list[int]:
        """Return the first tokens of ``count`` windows, or of all there are, spread evenly over the validation text."""
        windows = (self.total - self.train - 1) // self.sequence
        used = min(count, windows)
        return [self.train + (number * windows // used) * self.sequence for number in range(used)]


def split_tokens(total: int, *, sequence: int, fraction: float, seed: int) -> Split | None:
    """Return the split that keeps about ``fraction`` of the tokens, one window at least, for validation.

    A fraction of 0 keeps none. None where the text is too short for one window of each.
    """
    kept = max(round(total * fraction), sequence + 1) if fraction > 0 else 0
    if total - kept < sequence + 1:
        return None
    return Split(train=total - kept, total=total, sequence=sequence, seed=seed)
