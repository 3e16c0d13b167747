def test_a_small_storm(storm, tmp_path):
    """Two injections of every kind; ``benchmarks/corruption_storm.py`` runs a thousand."""
    tallies = storm.storm(2 * len(storm.KINDS), 5, tmp_path)
    assert sum(tally.injections for tally in tallies.values()) == 2 * len(storm.KINDS)
    assert [note for tally in tallies.values() for note in tally.notes] == []
