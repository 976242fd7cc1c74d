"""A process of the previous version on a database that was already migrated by the next version."""

from sql import migrations
from tests.support.program import started
from tests.support.scene import Scene

EXPANDED = """
    ALTER TABLE export_jobs ADD COLUMN later text DEFAULT 'x' NOT NULL;
    ALTER TABLE export_attempts ADD COLUMN later text;
    CREATE TABLE later (job_id bigint REFERENCES export_jobs ON DELETE CASCADE);
"""


async def add_migrations(scene: Scene, versions: int) -> None:
    """Bring the database this many migrations ahead; they only add tables and columns."""
    known = len(migrations("main"))
    for version in range(known + 1, known + 1 + versions):
        await scene.sql.execute(
            "INSERT INTO schema_migrations (set_name, version, name, checksum) VALUES ('main', $1, 'later', 'x')", version
        )
    await scene.sql.execute(EXPANDED)


async def test_a_process_works_on_a_database_that_is_one_migration_ahead(scene: Scene) -> None:
    async with scene.running() as before:
        await add_migrations(scene, 1)
        await scene.assert_completed(before, await scene.queue())
        async with scene.running() as after:
            assert await before.end() == 0
            await scene.assert_completed(after, await scene.queue())
            await scene.assert_nothing_is_left()


async def test_a_process_does_not_start_on_a_database_that_is_two_migrations_ahead(scene: Scene) -> None:
    await add_migrations(scene, 2)
    async with started(scene.settings()) as program:
        assert await program.ended() == 2
    assert "newer than this service" in "".join(entry["text"] for entry in program.events("text"))
