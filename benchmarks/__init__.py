"""One file per goal. Each prints one JSON object per line, saying what was run on what; compare lines of one run only."""
