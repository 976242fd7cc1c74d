"""What the tests stand on: real servers, started on demand."""
