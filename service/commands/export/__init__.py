"""The command `contact-exports export`. Its modules import the client only once the command runs."""
