"""What users reported, as examples to learn from: scored, freed of duplicates and contradictions, and partly sealed."""
