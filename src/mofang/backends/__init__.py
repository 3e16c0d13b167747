"""Where jobs run: one protocol, one folder a backend."""
