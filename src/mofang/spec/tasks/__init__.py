"""One module a kind of job: the keys of its file -> its task."""
