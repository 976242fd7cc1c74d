"""The window of a request: its local dates, read in the timezone of the caller's Space."""

from datetime import datetime

from service.errors import InvalidParameters, UnknownTimezone
from service.model import Caller, Window, exists, timezone


def window_of_request(caller: Caller, start: datetime, end: datetime, max_range_days: int | None) -> Window:
    """The window between two naive local times, both inclusive (contract: "the window").

    `max_range_days` is the longest range; None: any.
    Raises InvalidParameters if the timezone is unknown, a date is no instant of UTC, or the range is too long.
    """
    try:
        zone = timezone(caller.timezone)
    except UnknownTimezone as error:
        message = f'This Space\'s timezone "{error.timezone}" is unknown, so local dates cannot be interpreted.'
        raise InvalidParameters({"timezone": [message]}) from None
    errors = {
        field: [f"{field} must be a date and time (YYYY-MM-DD HH:MM:SS) in the years 1 to 9999 of UTC."]
        for field, local in (("start_date", start), ("end_date", end))
        if not exists(local, zone)
    }
    if errors:
        raise InvalidParameters(errors)
    if max_range_days is not None and (end - start).total_seconds() >= max_range_days * 86400:
        raise InvalidParameters({"end_date": [f"The range must not be longer than {max_range_days} days."]})
    return Window.from_local(start, end, zone)
