"""Database URLs as providers print them, translated for our driver. No error message contains a user or password."""

import getpass
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

_IGNORED = frozenset(
    {
        *("application_name", "fallback_application_name", "client_encoding", "statement_timeout", "lock_timeout"),
        *("connect_timeout", "socket_timeout", "pool_timeout", "pool_size", "connection_limit", "max_overflow"),
        *("pgbouncer", "prepared_statement_cache_size", "statement_cache_size", "prepareThreshold", "supa"),
        *("channel_binding", "gssencmode", "sslcompression", "sslaccept", "uselibpqcompat", "load_balance_hosts"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    }
)
"""Parameters of other clients. The service sets what they mean itself, or does not need it."""
_PASSED = frozenset(
    {
        *("host", "port", "dbname", "database", "user", "password", "passfile", "service", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
        *("options", "search_path", "role", "work_mem"),
    }
)
"""Parameters of the driver, and settings of the server that make sense for this service."""
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "sslmode": _SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
    "gsslib": ("gssapi", "sspi"),
}
_VARIABLES: Mapping[str, str] = {
    "PGSSLMODE": "sslmode",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGGSSLIB": "gsslib",
}
"""Variables of the environment from which the driver takes a parameter that the URL does not have."""
_FILES = ("sslcert", "sslkey", "sslcrl")
_HOST = re.compile(r"(?:\[[^\]]+\]|(?P<name>[^:\[\]]+))(?::(?P<port>.*))?")
_ENCODE = "has a character that must be percent-encoded, such as / (%2F), # (%23), ? (%3F) or @ (%40) in a password"


def translate(url: str) -> str:
    """The URL for the driver. Raises ValueError whose text continues a sentence that starts with the setting's name."""
    parts = _split(url)
    hosts = _hosts(parts.netloc.rpartition("@")[2])
    parameters = _parameters(parts.query)
    if not hosts:
        _check_listed_hosts(parameters)
    for name, choices in _CHOICES.items():
        if parameters.get(name, choices[0]) not in choices:
            raise ValueError(f"has an unknown {name}; it must be one of {', '.join(choices)}")
    _check_variables(parameters, has_port=bool(re.search(":[0-9]", parts.netloc.rpartition("@")[2])))
    if parameters.get("sslnegotiation") == "direct" and parameters.get("sslmode") not in _SSL_MODES[3:]:
        raise ValueError("has sslnegotiation=direct, which needs sslmode=require, verify-ca or verify-full")
    _check_files(parameters)
    _check_user(parts, parameters)
    return parts._replace(query=urlencode(parameters)).geturl()


def hosts_of(url: str) -> str:
    """The hosts of a translated URL for operators, such as `db.test:5432,other.test`; never a user or a password."""
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query))
    return (
        unquote(parts.netloc.rpartition("@")[2])
        or ":".join(parameters[name] for name in ("host", "port") if name in parameters)
        or os.environ.get("PGHOST")
        or "the local socket"
    )


def place_of(url: str) -> str:
    """Which database a translated URL names and where, in words for operators: without user, password and parameters."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    name = given.get("dbname") or given.get("database") or unquote(parts.path[1:])
    return f"the database {name} on {hosts_of(url)}" if name else f"the default database on {hosts_of(url)}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        # The original message quotes the part before the host, which may be a password.
        raise ValueError(_ENCODE) from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a URL that starts with postgresql://")
    if "#" in url or "@" in parts.path + parts.query or parts.netloc.count("@") > 1:
        raise ValueError(_ENCODE)
    if "\0" in unquote(url):
        raise ValueError("has a zero byte (%00)")
    return parts


def _hosts(listed: str) -> list[str]:
    """The hosts of a comma-separated list, ports checked."""
    if not listed:
        return []
    hosts = listed.split(",")
    for host in hosts:
        found = _HOST.fullmatch(host)
        if found is None:
            raise ValueError("has a host list that is not of the form host:port,host:port")
        if found["port"]:
            _check_port(found["port"])
        _check_name(unquote(found["name"] or ""))
    return hosts


def _check_name(name: str) -> None:
    try:
        name.encode("utf-8" if name.startswith("/") else "idna")
    except UnicodeError:
        raise ValueError("has a host that is not a valid name") from None


def _check_port(port: str) -> None:
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:  # noqa: PLR2004 - the range of ports
        raise ValueError("has a port that is not a number from 1 to 65535")


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _IGNORED or not value:
            continue
        known, translated = _known(name, value)
        parameters[known] = translated
    return parameters


def _known(name: str, value: str) -> tuple[str, str]:
    """The driver's name and value of a parameter."""
    if name in ("schema", "currentSchema"):
        return "search_path", ",".join('"' + each.strip().replace('"', '""') + '"' for each in value.split(","))
    if name == "ssl":
        value = {"true": "require", "1": "require", "false": "disable", "0": "disable"}.get(value.lower(), value)
        name = "sslmode"
    if name == "sslmode" and value == "no-verify":
        value = "require"
    # A name with a dot is a server setting of an extension or of the adopter's own.
    if name not in _PASSED and "." not in name:
        shown = name if re.fullmatch("[A-Za-z_][A-Za-z0-9_.]{0,62}", name) else "?"
        raise ValueError(f"has the parameter {shown}, which the service does not support; remove it")
    return name, value


def _check_listed_hosts(parameters: dict[str, str]) -> None:
    """Check `host` and `port` among the parameters. One port is repeated for each host, as libpq does."""
    hosts = [] if "host" not in parameters else parameters["host"].split(",")
    ports = [] if "port" not in parameters else parameters["port"].split(",")
    for host in hosts:
        if not host.startswith("/"):
            _hosts(host or ",")
    for port in ports:
        _check_port(port)
    if len(ports) not in (0, 1, len(hosts)) or (ports and not hosts):
        raise ValueError("has another number of ports than of hosts")
    if ports:
        parameters["port"] = ",".join(ports * len(hosts) if len(ports) == 1 else ports)


def _check_variables(parameters: dict[str, str], *, has_port: bool) -> None:
    for variable, name in _VARIABLES.items():
        value = os.environ.get(variable)
        if value and name not in parameters and value not in _CHOICES[name]:
            raise ValueError(f"is completed by {variable}, which must be one of {', '.join(_CHOICES[name])}")
    if not has_port and "port" not in parameters and not re.fullmatch("[0-9,]*", os.environ.get("PGPORT", "")):
        raise ValueError("is completed by PGPORT, which must be a number from 1 to 65535")


def _check_user(parts: SplitResult, parameters: dict[str, str]) -> None:
    """Without a name of a user, the driver takes that of this process's user, and fails if that has none."""
    named = parts.username or parameters.keys() & {"user", "service"}
    if named or os.environ.get("PGUSER") or os.environ.get("PGSERVICE"):
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        raise ValueError("names no user, and the user of this process has no name; add one: postgresql://user@…") from None


def _check_files(parameters: dict[str, str]) -> None:
    """Check the files of TLS, because the driver reports a missing one like a server that is down."""
    mode = parameters.get("sslmode") or os.environ.get("PGSSLMODE") or ""
    if mode not in _SSL_MODES[3:]:
        return
    for name in _FILES:
        if name in parameters and not os.access(parameters[name], os.R_OK):
            raise ValueError(f"has a file in {name} that cannot be read: {parameters[name]}")
    given = parameters.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if given == "system":
        paths = ssl.get_default_verify_paths()
        given = parameters["sslrootcert"] = paths.cafile or paths.openssl_cafile
    if given is None and mode == "require":
        return
    try:
        path = Path(given) if given else Path.home() / ".postgresql" / "root.crt"
    except RuntimeError:  # a numeric user in a container has no home directory
        raise ValueError(f"has sslmode={mode}, which needs a root certificate: add sslrootcert=/path/to/ca.pem") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError:
        raise ValueError(
            f"has sslmode={mode}, which needs a root certificate, but {path} is not one that can be read;"
            " add sslrootcert=/path/to/ca.pem"
        ) from None
