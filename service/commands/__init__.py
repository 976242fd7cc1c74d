"""The commands that operators and consumers type. They print results to standard output, all else to standard error."""
