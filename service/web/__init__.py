"""The HTTP side: `routes` is the table of all calls, `app` builds the application from it.

A request passes `middleware` (its id, errors as responses) and `gate` (authentication, scope, rate limit), then one handler
in `exports`, `files` or `health`. A handler parses the request to a value, calls one use case and renders the result. It
makes no decision of its own.
"""
