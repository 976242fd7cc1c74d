"""The commands that operators type. Values go to standard output, everything else to standard error."""
