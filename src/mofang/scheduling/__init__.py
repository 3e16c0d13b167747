"""Which waiting job starts where and when: a pure function from a view of the world to a decision with reasons."""
