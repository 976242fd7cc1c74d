"""HTTP in front of the use cases: nothing here decides; it parses, calls and renders."""
