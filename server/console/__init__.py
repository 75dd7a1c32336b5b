"""What people see in a browser. `static/` holds third-party files as they were published, each with its licence."""
