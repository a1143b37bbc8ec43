"""Settings and the address of the running stack."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from ledger.errors import BadInput, Unavailable
from workers import home as homes
from workers.locate import running
from workers.settings import load_settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CLEARLANE_") or name in {
            "DATABASE_URL",
            "REDIS_URL",
            "CELERY_BROKER_URL",
        }:
            monkeypatch.delenv(name)


def test_the_defaults_work() -> None:
    settings = load_settings()
    assert settings.database_url is settings.redis_url is settings.sqlalchemy_url is None
    assert settings.data == Path(".clearlane")
    assert settings.restart_budget == 5


def test_the_broker_is_redis_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://r/0")
    assert load_settings().celery_broker_url == "redis://r/0"
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://b/1")
    assert load_settings().celery_broker_url == "redis://b/1"


@pytest.mark.parametrize(
    "given", ["postgresql://u:p@h:5/d", "postgres://u:p@h:5/d", "postgresql+psycopg://u:p@h:5/d"]
)
def test_a_database_url_in_any_form(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", given)
    assert load_settings().database_url == "postgresql://u:p@h:5/d"
    assert load_settings().sqlalchemy_url == "postgresql+psycopg://u:p@h:5/d"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:hidden@h/d"),
        ("DATABASE_URL", "postgresql://u:hidden@h:hidden/d"),
        ("DATABASE_URL", "postgresql://u:hidden@h"),
        ("REDIS_URL", "redis+socket://:hidden@h"),
        ("CELERY_BROKER_URL", "amqp://u:hidden@h"),
        ("CLEARLANE_GATEWAY_PORT", "70000"),
        ("CLEARLANE_FLOWER_PORT", "hidden"),
        ("CLEARLANE_EXECUTE_WORKERS", "0"),
        ("CLEARLANE_RESTART_BUDGET", "0"),
        ("CLEARLANE_BACKOFF_MAX_S", "inf"),
        ("CLEARLANE_LOG_LEVEL", "hidden"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as refused:
        load_settings()
    assert refused.value.field == name
    assert refused.value.reason
    assert refused.value.remedy.startswith("correct it, or unset it")
    assert "hidden" not in str(refused.value)  # the value may be a secret


def run_file(home: Path, started: float) -> None:
    (home / homes.RUN).write_text(
        json.dumps(
            {
                "database_url": "postgresql://file/d",
                "redis_url": "redis://file/0",
                "gateway_url": "http://file",
                "flower_url": "http://flower",
                "supervisor": {"pid": os.getpid(), "started": started},
                "processes": [],
            }
        )
    )


def test_a_running_stack_is_found_by_its_run_file(tmp_path: Path) -> None:
    run_file(tmp_path, psutil.Process().create_time())
    found = running(tmp_path)
    assert (found.database_url, found.redis_url) == ("postgresql://file/d", "redis://file/0")
    assert (found.gateway_url, found.flower_url) == ("http://file", "http://flower")


def test_the_environment_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://env/d")
    monkeypatch.setenv("REDIS_URL", "redis://env/0")
    assert running(tmp_path).database_url == "postgresql://env/d"
    assert running(tmp_path).gateway_url is None
    run_file(tmp_path, psutil.Process().create_time())
    assert running(tmp_path).redis_url == "redis://env/0"
    assert running(tmp_path).gateway_url == "http://file"


def test_a_run_file_of_a_dead_supervisor_is_nothing_running(tmp_path: Path) -> None:
    run_file(tmp_path, psutil.Process().create_time() - 100)
    with pytest.raises(Unavailable, match=r"nothing is running here .* `clearlane up --detach`"):
        running(tmp_path)


def test_private_networks_are_opened_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().agent_addresses.refusal("10.1.2.3")
    monkeypatch.setenv("CLEARLANE_AGENT_NETWORKS", "10.0.0.0/8, fd00::/8")
    opened = load_settings().agent_addresses
    for address in ("10.1.2.3", "fd12::1", "127.0.0.1", "8.8.8.8"):
        assert opened.refusal(address) is None
    for address in ("192.168.0.1", "169.254.169.254", "fd00:ec2::254"):
        assert opened.refusal(address)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/8,", "home", "10.0.0.0/99"])
def test_networks_that_are_none_are_refused_by_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARLANE_AGENT_NETWORKS", text)
    with pytest.raises(BadInput, match="CLEARLANE_AGENT_NETWORKS"):
        load_settings()
