"""Files that people write, read strictly: every mistake is one line that names its place and what to do about it."""
