"""The node agent: starts the workers of an attempt, sees them fail, and starts them again."""
