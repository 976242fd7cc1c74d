"""How fast the service is, against what one would type instead, and what it costs: `./run bench --help`."""
