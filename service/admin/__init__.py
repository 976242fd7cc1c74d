"""The operator's port: a second application in the process, with metrics, health checks and the operator's page."""
