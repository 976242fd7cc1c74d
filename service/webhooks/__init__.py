"""Webhooks: sends the events of the outbox to the endpoints of Spaces. The outbox itself is written by a trigger."""
