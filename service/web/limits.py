"""What one client may occupy: sizes and times of every phase of a connection, each with its reason."""

MAXIMUM_BODY = 64 * 1024
"""Largest request body, in bytes (contract: 413)."""
MAXIMUM_HEAD = 32 * 1024
"""Largest request line and headers together, in bytes. Keys, cookies of a proxy and a trace context fit in a quarter."""
MAXIMUM_FIELD = 8190
"""Largest request line, and largest header field, in bytes: the limit of common proxies."""
MAXIMUM_FIELDS = 100
"""Most header fields of a request."""
READ_BUFFER = 64 * 1024
"""Body bytes buffered before the connection stops reading: one body of the largest size."""
WRITE_BUFFER = 16 * 1024
"""Response bytes that wait in the process until a connection stops writing: a thousand connections hold 16 MiB."""
KERNEL_BUFFER = 64 * 1024
"""Response bytes that the kernel buffers in addition to those in flight. Without a limit it takes up to 4 MiB."""
PIECE = 32 * 1024
"""Bytes of a large response that are written at once, so that the rest is not copied into the buffer of the connection."""
MAXIMUM_UNSENT = 64 * 1024 * 1024
"""Bytes of large responses that are being sent, over all clients: four of the largest pages."""

IDLE_SECONDS = 75.0
"""Longest a connection waits for the first byte of a request. Longer than the 60 s of common proxies, so that the proxy
closes first and never sends a request into a closed connection."""
HEAD_SECONDS = 15.0
"""Longest from the first byte of a request to the end of its headers. They fit in one packet or a few."""
BODY_SECONDS = 20.0
"""Longest that a body may take, from the moment it is wanted: 64 KiB at 26 kbit/s."""
LINGER_SECONDS = 5.0
"""Longest that the unread rest of a body is read and dropped after the response, so that the client sees the response."""
STALL_SECONDS = 60.0
"""Longest that a client may accept no byte of a response."""
RESPONSE_SECONDS = 3600.0
"""Longest response: a file is kept for one hour after its last link expired, so no download can take longer."""
ROOM_SECONDS = 5.0
"""Longest that a large response waits while others fill `MAXIMUM_UNSENT`."""
FRESH_SECONDS = 0.25
"""How long a response is sent before it may be ended for a newcomer because its client reads slowly."""
