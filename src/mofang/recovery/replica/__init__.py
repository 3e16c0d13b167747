"""Copies of snapshots on other nodes: who keeps whose, the server of a node, and bringing a copy to a newcomer."""
