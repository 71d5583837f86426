"""Tests the limits of memory and CPU time that control groups set, as in a container."""

from pathlib import Path

import psutil
import pytest

from bot.doctor import machine_checks
from bot.models import control_groups
from bot.models.control_groups import core_count, group_bounds, memory
from bot.models.hardware import child_environment, detect
from tests.support.builders.system_files import lay

MB = 1 << 20
CORES = len(control_groups.usable_cores())


def test_a_group_bounds_it_and_so_do_those_around_it(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/system.slice/inhouse.service\n",
        "sys/fs/cgroup/system.slice/inhouse.service/memory.max": "8000\n",
        "sys/fs/cgroup/system.slice/inhouse.service/memory.high": "max\n",
        "sys/fs/cgroup/system.slice/inhouse.service/memory.current": "5000\n",
        "sys/fs/cgroup/system.slice/inhouse.service/memory.stat": "anon 1\ninactive_file 700\nactive_file 300\n",
        "sys/fs/cgroup/system.slice/memory.max": "max\n",
        "sys/fs/cgroup/system.slice/memory.high": "9000\n",
        "sys/fs/cgroup/system.slice/memory.current": "8500\n",
    }
    assert list(group_bounds(lay(tmp_path, files))) == [(4000, 8000), (500, 9000)]


def test_the_old_groups_of_a_container_whose_own_path_is_not_shown(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,memory:/docker/1234\n3:cpuset:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "2000\n",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 10\n",
    }
    assert list(group_bounds(lay(tmp_path, files))) == [(4110, 6000)]


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert list(group_bounds(lay(tmp_path, files))) == []
    assert list(group_bounds(tmp_path / "no linux")) == []


def test_a_group_has_less_memory_than_the_machine(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": f"{900 * MB}", "sys/fs/cgroup/memory.current": "0"}
    assert memory(lay(tmp_path, files)) == (min(900 * MB, memory(tmp_path / "no linux")[0]), 900 * MB)
    (tmp_path / "sys/fs/cgroup/memory.current").write_text(f"{1000 * MB}")  # more than the limit that was set later
    assert memory(tmp_path) == (0, 900 * MB)
    assert memory(tmp_path / "no linux")[1] == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "20000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, CORES),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000000 100000"}, CORES),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/12",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        ({"proc/self/cgroup": "3:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, CORES),
        ({}, CORES),
    ],
)
def test_a_limit_of_cpu_time_is_a_number_of_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert core_count(lay(tmp_path, files)) == cores


def test_what_a_container_may_use_is_what_people_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_groups, "group_bounds", lambda _: [(700 * MB, 1200 * MB)])
    monkeypatch.setattr(control_groups, "core_count", lambda: 1)
    seen = detect("cpu")
    assert (seen.cores, seen.ram_total_mb, seen.ram_free_mb) == (1, 1200, 700)
    (found,) = machine_checks.memory()
    assert found.found == "1,200 MB, 700 MB free"


@pytest.mark.parametrize(("usable", "given", "threads"), [(8, None, "3"), (8, "2", "2"), (3, None, None)])
def test_torch_gets_as_many_threads_as_its_cpu_time_is_worth(
    monkeypatch: pytest.MonkeyPatch, usable: int, given: str | None, threads: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(control_groups, "core_count", lambda: 3)
    monkeypatch.setattr(control_groups, "usable_cores", lambda: frozenset(range(usable)))
    assert child_environment().get("OMP_NUM_THREADS") == threads
