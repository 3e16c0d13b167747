"""The controller: the loop that watches, decides, commits, acts and ingests, and the service around it."""
