"""The rule for object names: a relative path with `/` that stays inside the store."""


def checked_object_name(object_name: str) -> str:
    """Return the name unchanged. Raises ValueError for an empty, `.` or `..` segment and for control characters."""
    segments = object_name.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or not object_name.isprintable():
        raise ValueError("an object name must not contain empty, `.` or `..` segments or control characters")
    return object_name
