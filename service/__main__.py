"""The command line."""

from importlib import import_module

import click

from service.commands.output import prepare_streams

_COMMANDS = {
    "contacts": "service.commands.contacts:contacts",
    "demo": "service.demo:demo",
    "export": "service.commands.export.command:export",
    "exports": "service.commands.exports:exports",
    "health": "service.commands.health:health",
    "keys": "service.commands.keys:keys",
    "migrate": "service.commands.running:migrate",
    "seed": "service.commands.seed:seed",
    "serve": "service.commands.running:serve",
    "spaces": "service.commands.spaces:spaces",
    "storage": "service.commands.storage:storage",
    "webhooks": "service.commands.webhooks:webhooks",
}
"""The module and the variable of each command."""


class Commands(click.Group):
    """Imports the module of a command only when it is used, because container engines run `health` every few seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if (place := _COMMANDS.get(cmd_name)) is None:
            return None
        module, _, variable = place.partition(":")
        command = getattr(import_module(module), variable)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="contact-exports")
def main() -> None:
    """Export contacts from Postgres to gzipped NDJSON files on S3 or in a directory.

    Settings of the service are environment variables, listed in the documentation. Without DATABASE_URL and STORAGE_URL, all
    commands but `export` and `health` use an embedded Postgres and a directory in STATE_DIR.
    """
    prepare_streams()


if __name__ == "__main__":
    main()
