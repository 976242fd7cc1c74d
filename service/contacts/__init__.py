"""The use cases of the contact API, which read contacts at once instead of in an export."""
