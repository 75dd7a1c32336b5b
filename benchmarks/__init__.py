"""One file per goal. Each prints one JSON object per line that says what was run on what; compare within one run."""
