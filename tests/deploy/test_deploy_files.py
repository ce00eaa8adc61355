"""The files that the gateway is deployed with say what is true: they name what exists, and hold no secret."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from adapters.dynamodb.items import table_request
from config.settings import load
from gateway.assembly import Assembly, assemble
from gateway.cli import app
from tests.rig.processes import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILES = sorted(
    path.relative_to(ROOT)
    for folder in (".", "docker", "examples", "tests/compose", "deploy")
    for path in (ROOT / folder).glob("*ockerfile" if folder == "." else "**/*ockerfile")
)
KEPT_OUT = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|aws_secret_access_key\s*=\s*\S{40}"
)


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "sidecar.yaml").read_text()))


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [each for each in manifests() if each["kind"] == kind]
    return found


def kubernetes_config(directory: Path) -> Path:
    path = directory / "mqlift.yaml"
    path.write_text(manifest("ConfigMap")["data"]["mqlift.yaml"])
    return path


def config_of(platform: str, directory: Path) -> Path:
    """The configuration that comes with the files of a platform."""
    return kubernetes_config(directory) if platform == "kubernetes" else DEPLOY / platform / "mqlift.yaml"


def ports(assembly: Assembly) -> set[int]:
    return {part.settings.port for part in assembly.listeners}


# --- configurations and policies


@pytest.mark.parametrize("platform", ["kubernetes", "ecs", "systemd"])
def test_each_configuration_is_right(platform: str, tmp_path: Path) -> None:
    assemble(load(config_of(platform, tmp_path)))


@pytest.mark.parametrize("platform", ["kubernetes", "ecs", "systemd"])
def test_each_policy_is_that_of_its_configuration(platform: str, tmp_path: Path) -> None:
    """`mqlift iam-policy --config … --account 111122223333 > deploy/…/iam-policy.json` brings them up to date."""
    config = config_of(platform, tmp_path)
    result = CliRunner().invoke(app, ["iam-policy", "--config", str(config), "--account", "111122223333"])
    assert result.exit_code == 0, result.output
    assert json.loads((DEPLOY / platform / "iam-policy.json").read_text()) == json.loads(result.stdout)


def test_the_table_of_the_state_is_the_one_that_a_gateway_creates() -> None:
    created = json.loads(table_request("mqlift-state"))
    template = yaml.safe_load((DEPLOY / "dynamodb" / "table.yaml").read_text())
    properties = template["Resources"]["State"]["Properties"]
    assert template["Parameters"]["TableName"]["Default"] == created["TableName"]
    for key in ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"):
        assert properties[key] == created[key]


def test_terraform_makes_the_same_table() -> None:
    created = json.loads(table_request("mqlift-state"))
    text = (DEPLOY / "dynamodb" / "table.tf").read_text()
    said = re.findall(r'(name|type|billing_mode|hash_key|range_key|projection_type) += "(\w[\w-]*)"', text)
    (index,) = created["GlobalSecondaryIndexes"]
    assert said == [
        ("name", created["TableName"]),
        ("billing_mode", created["BillingMode"]),
        *_terraform_keys(created["KeySchema"]),
        *(
            (name, each[f"Attribute{name.title()}"])
            for each in created["AttributeDefinitions"]
            for name in ("name", "type")
        ),
        ("name", index["IndexName"]),
        *_terraform_keys(index["KeySchema"]),
        ("projection_type", index["Projection"]["ProjectionType"]),
    ]


def _terraform_keys(schema: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(f"{each['KeyType'].lower()}_key", each["AttributeName"]) for each in schema]


# --- compose


def test_the_gateway_of_the_stack_listens_where_its_ports_are_published() -> None:
    assembly = assemble(load(ROOT / "config" / "compose.yaml"))
    published = {int(each.rpartition(":")[2]) for each in SERVICES["gateway"]["ports"]}
    assert published == ports(assembly) | {assembly.settings.admin.port}
    assert ports(assembly) == {1883, 5672, 61613}
    assert {part.settings.host for part in assembly.listeners} == {"0.0.0.0"}


def test_the_stack_starts_in_order() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, name
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in SERVICES[needed] or _has_health_check(SERVICES[needed]), needed


def _has_health_check(service: dict[str, Any]) -> bool:
    dockerfile = ROOT / service["build"].get("dockerfile", "Dockerfile")
    return "\nHEALTHCHECK " in dockerfile.read_text()


def test_the_stack_names_files_that_exist() -> None:
    for service in SERVICES.values():
        if "build" in service:
            assert (ROOT / service["build"].get("dockerfile", "Dockerfile")).is_file()
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_every_port_is_published_to_this_machine_only() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:${"), name


def test_applications_are_told_by_their_environment_alone() -> None:
    for name in ("device", "worker"):
        assert SERVICES[name]["environment"]["BROKER_HOST"] == "${BROKER_HOST:-gateway}"
    for script in sorted((ROOT / "examples" / "legacy").glob("*.py")):
        assert "mqlift" not in script.read_text(), script


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=str)
def test_each_image_is_made_of_what_is_sent_to_the_engine(dockerfile: Path) -> None:
    """`.dockerignore` leaves out all but what it names."""
    context = ROOT / dockerfile.parent if dockerfile.parts[0] == "deploy" else ROOT
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in (ROOT / dockerfile).read_text().splitlines():
        if not line.startswith("COPY ") or "--from" in line:
            continue
        for source in line.split()[1:-1]:
            assert (context / source).exists(), line
            if context == ROOT:
                assert any(source == each or source.startswith(f"{each}/") for each in allowed), line


def test_every_image_has_a_base_that_can_be_replaced() -> None:
    assert len(DOCKERFILES) == 6
    for dockerfile in DOCKERFILES:
        bases = re.findall(r"^FROM (\S+)", (ROOT / dockerfile).read_text(), re.MULTILINE)
        assert bases, dockerfile
        assert all(base.startswith("${") for base in bases), dockerfile


def test_the_image_runs_as_nobody_in_particular() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    final = dockerfile.rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in final
    assert "pip" not in final
    assert "\nHEALTHCHECK " in final
    assert "org.opencontainers.image.licenses" in final


# --- Kubernetes, ECS


def test_the_manifest_fits_together() -> None:
    assert [each["kind"] for each in manifests()] == ["ServiceAccount", "ConfigMap", "Deployment"]
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == manifest("ServiceAccount")["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["configuration"]["configMap"]["name"] == manifest("ConfigMap")["metadata"]["name"]
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == set(volumes)
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["exec"]["command"][:2] == ["python", "/opt/mqlift/health.py"]


def test_a_pod_has_the_time_to_drain(tmp_path: Path) -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > load(kubernetes_config(tmp_path)).drain_timeout


def test_the_application_of_a_pod_connects_to_its_sidecar(tmp_path: Path) -> None:
    (application,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in application["env"]}
    assert int(environment["AMQP_PORT"]) in ports(assemble(load(kubernetes_config(tmp_path))))


def test_the_task_fits_together() -> None:
    task = json.loads((DEPLOY / "ecs" / "task-definition.json").read_text())
    containers = {each["name"]: each for each in task["containerDefinitions"]}
    assembly = assemble(load(DEPLOY / "ecs" / "mqlift.yaml"))
    gateway, worker = containers["mqlift"], containers["worker"]
    assert {each["containerPort"] for each in gateway["portMappings"]} <= ports(assembly)
    assert gateway["stopTimeout"] > assembly.settings.drain_timeout
    assert {each["sourceVolume"] for each in gateway["mountPoints"]} == {each["name"] for each in task["volumes"]}
    assert worker["dependsOn"] == [{"containerName": "mqlift", "condition": "HEALTHY"}]
    environment = {each["name"]: each["value"] for each in worker["environment"]}
    assert int(environment["STOMP_PORT"]) in ports(assembly)


# --- systemd


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "mqlift.service"
    # It looks whether the program is there.
    mqlift = str(Path(sys.executable).with_name("mqlift"))
    unit.write_text((DEPLOY / "systemd" / "mqlift.service").read_text().replace("/opt/mqlift/bin/mqlift", mqlift))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_waits_longer_than_a_drain_takes() -> None:
    unit = (DEPLOY / "systemd" / "mqlift.service").read_text()
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(patience) > load(DEPLOY / "systemd" / "mqlift.yaml").drain_timeout


# --- all of them


def test_there_are_no_secrets() -> None:
    folders = [DEPLOY, ROOT / "docker", ROOT / "examples", ROOT / "scripts", ROOT / "config"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in [*files, ROOT / "docker-compose.yml", ROOT / "Dockerfile"]:
        assert not KEPT_OUT.search(path.read_text()), path


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_each_script_can_be_parsed_and_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], timeout=60, check=False).returncode == 0
