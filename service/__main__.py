"""The command line."""

import click

from service.commands import administration, running
from service.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="contact-exports")
def main() -> None:
    """Contact exports: one HTTP call in, one gzipped NDJSON file out.

    Settings come from the environment; the README lists them. With neither DATABASE_URL nor STORAGE_URL all commands work on
    an embedded Postgres and a directory in STATE_DIR.
    """


for each in (
    running.serve,
    running.migrate,
    running.health,
    administration.spaces,
    administration.keys,
    administration.exports,
    administration.storage,
    administration.seed,
    demo,
):
    main.add_command(each)

if __name__ == "__main__":
    main()
