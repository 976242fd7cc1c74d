"""The command line."""

import click

from service.commands import running
from service.commands.exports import exports
from service.commands.keys import keys
from service.commands.seed import seed
from service.commands.spaces import spaces
from service.commands.storage import storage
from service.commands.webhooks import webhooks
from service.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="contact-exports")
def main() -> None:
    """Export contacts from Postgres to gzipped NDJSON files on S3 or in a directory.

    Settings are environment variables, listed in the documentation. Without DATABASE_URL and STORAGE_URL, all commands use
    an embedded Postgres and a directory in STATE_DIR.
    """


for each in (
    running.serve,
    running.migrate,
    running.health,
    spaces,
    keys,
    exports,
    webhooks,
    storage,
    seed,
    demo,
):
    main.add_command(each)

if __name__ == "__main__":
    main()
