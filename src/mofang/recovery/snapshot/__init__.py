"""Training state kept in shared memory, where it outlives the process that made it."""
