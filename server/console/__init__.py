"""What people see in a browser. In `static/`, third-party files lie beside their licences; `docs.js` is our own."""
