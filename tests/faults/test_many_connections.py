"""One client without a key holds hundreds of connections: everybody else is served, and exports complete."""

import asyncio
import resource

import pytest

from service.admin.app import CONNECTIONS
from tests.hold.clients import UNKNOWN_KEYS
from tests.hold.run import Plan, hold
from tests.hold.short_deadlines import REOPEN_SECONDS
from tests.support.metrics import scrape
from tests.support.program import free_port, running, started
from tests.support.scene import Scene
from tests.support.waiting import until_logged

_DESCRIPTORS = 300
"""They leave room for 140 connections, and for files."""
_DESCRIPTORS_WITH_ADMIN_PORT = 512
"""They leave room for 144 connections beside those of the operator's port. Without its share it would be 352."""


async def test_a_client_that_holds_300_connections_delays_nobody_and_fails_no_export(scene: Scene) -> None:
    async with started(scene.settings()) as program:
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        await program.listening()
        await until_logged(program, "store_usable")
        report = await hold(scene, program, Plan(connections=300, seconds=6))
        assert report["violations"] == []
        assert report["descriptors_max"] < _DESCRIPTORS
        assert await program.end() == 0


async def test_connections_held_at_the_operators_port_take_no_descriptors_from_exports(scene: Scene) -> None:
    async with started(scene.settings(ADMIN_PORT=free_port())) as program:
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (_DESCRIPTORS_WITH_ADMIN_PORT,) * 2)
        await program.listening()
        await until_logged(program, "store_usable")
        host, port = program.admin.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS)]
        report = await hold(scene, program, Plan(connections=400, seconds=4))
        assert report["violations"] == []
        assert report["descriptors_max"] < _DESCRIPTORS_WITH_ADMIN_PORT
        assert "contact_exports_build_info" in await scrape(program.admin)
        for _, writer in idle:
            writer.close()
        assert await program.end() == 0


@pytest.mark.long
async def test_a_client_that_holds_1000_connections_past_every_deadline_delays_nobody(scene: Scene) -> None:
    async with running(scene.settings(), module="tests.hold.short_deadlines") as program:
        report = await hold(scene, program, Plan(connections=1000, seconds=60, reopen_seconds=REOPEN_SECONDS))
        assert report["violations"] == []
        assert await program.end() == 0


@pytest.mark.long
async def test_400_connections_that_call_with_unknown_keys_delay_no_status_call(scene: Scene) -> None:
    async with scene.running() as program:
        report = await hold(scene, program, Plan(connections=400, seconds=20, kinds=(UNKNOWN_KEYS,)))
        assert report["violations"] == []
        assert await program.end() == 0
