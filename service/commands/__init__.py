"""The commands that operators type. They print results to standard output and everything else to standard error."""
