"""HTTP: each file holds the routes of one noun. A route decodes, calls what decides, and words the answer."""
