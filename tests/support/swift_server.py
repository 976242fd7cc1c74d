"""The child process of `tests.support.swift`: all four servers of OpenStack Swift, with the S3 API.

    python swift_server.py DIRECTORY ACCESS_KEY SECRET_KEY MINIMUM_PART_BYTES

All data are in DIRECTORY. When the S3 endpoint responds, its port is written to the file `port` there. Swift is made for
many machines and is configured in /etc. Here each ring has one device on a free loopback port, and the configuration is
in DIRECTORY too.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import eventlet  # type: ignore[import-untyped]
import eventlet.wsgi  # type: ignore[import-untyped]
from swift.common import constraints, storage_policy, utils, wsgi  # type: ignore[import-untyped]
from swift.common.ring.builder import RingBuilder  # type: ignore[import-untyped]
from swift.common.utils import logs  # type: ignore[import-untyped]

_SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = tests

[swift-constraints]
max_header_size = 16384
"""

_BACKEND_CONF = """
[DEFAULT]
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING

[app:main]
use = egg:swift#{kind}
# The default is 1 s. Later updates are missing in listings until a daemon, which is not run here, adds them.
container_update_timeout = 30
"""

_PROXY_CONF = """
[DEFAULT]
swift_dir = {directory}
log_level = WARNING

[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
conn_timeout = 10

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_upload_part_num = 10000
min_segment_size = {minimum_part_bytes}

[filter:tempauth]
use = egg:swift#tempauth
{user} = {secret_key} .admin

[filter:slo]
use = egg:swift#slo
allow_async_delete = false
"""


def _build_ring(directory: Path, name: str, port: int) -> None:
    builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
    place = {"ip": "127.0.0.1", "port": port, "device": "disk", "region": 1, "zone": 1, "weight": 1.0}
    builder.add_dev(place)
    builder.rebalance()
    builder.get_ring().save(str(directory / f"{name}.ring.gz"))


def _load(directory: Path, name: str, text: str) -> Any:
    path = directory / f"{name}.conf"
    path.write_text(text)
    return wsgi.loadapp(str(path), global_conf={"log_name": name})


def _serve(app: Any, listener: Any) -> Any:
    """Start a server. `wait()` of the result returns when it ends."""
    return eventlet.spawn(
        eventlet.wsgi.server,
        listener,
        app,
        wsgi.NullLogger(),
        protocol=wsgi.SwiftHttpProtocol,
        # S3 clients expect "ETag", not "Etag".
        capitalize_response_headers=False,
        url_length_limit=constraints.MAX_REQUEST_LINE,
    )


def main(directory: Path, access_key: str, secret_key: str, minimum_part_bytes: int) -> None:
    """Serve until killed."""
    utils.monkey_patch()
    # Swift logs to syslog by default; send the log to this process's output.
    logs.ThreadSafeSysLogHandler = lambda **_: logging.StreamHandler()
    (directory / "devices" / "disk").mkdir(parents=True)
    (directory / "swift.conf").write_text(_SWIFT_CONF)
    utils.set_swift_dir(str(directory))
    constraints.reload_constraints()
    storage_policy.reload_storage_policies()

    kinds = ("account", "container", "object")
    listeners = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in (*kinds, "proxy")}
    for kind in kinds:
        _build_ring(directory, kind, listeners[kind].getsockname()[1])
    for kind in kinds:
        text = _BACKEND_CONF.format(directory=directory, kind=kind)
        _serve(_load(directory, f"{kind}-server", text), listeners[kind])
    account, _, user = access_key.partition(":")
    text = _PROXY_CONF.format(
        directory=directory,
        user=f"user_{account}_{user}",
        secret_key=secret_key,
        minimum_part_bytes=minimum_part_bytes,
    )
    proxy = _serve(_load(directory, "proxy-server", text), listeners["proxy"])

    unfinished = directory / "port.new"
    unfinished.write_text(str(listeners["proxy"].getsockname()[1]))
    unfinished.rename(directory / "port")
    proxy.wait()


if __name__ == "__main__":
    os.umask(0o077)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
