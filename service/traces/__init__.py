"""Spans by OpenTelemetry, which is the extra `traces`. Only a process that exports spans imports these modules."""
