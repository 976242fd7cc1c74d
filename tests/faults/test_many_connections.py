"""One client without a key holds hundreds of connections: everybody else is served, and exports complete."""

import resource

import pytest

from tests.hold.clients import UNKNOWN_KEYS
from tests.hold.run import Plan, hold
from tests.hold.short_deadlines import REOPEN_SECONDS
from tests.support.program import running, started
from tests.support.scene import Scene
from tests.support.waiting import until_logged

_DESCRIPTORS = 300
"""They leave room for 140 connections, and for files."""


async def test_a_client_that_holds_300_connections_delays_nobody_and_fails_no_export(scene: Scene) -> None:
    async with started(scene.settings()) as program:
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        await program.listening()
        await until_logged(program, "store_usable")
        report = await hold(scene, program, Plan(connections=300, seconds=6))
        assert report["violations"] == []
        assert report["descriptors_max"] < _DESCRIPTORS
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
