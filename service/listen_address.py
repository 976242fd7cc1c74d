"""Where the service listens by default. The command `health` reads this without the other settings, which load slowly."""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
