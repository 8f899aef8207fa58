"""The manifests pass the Kubernetes schemas and the restricted Pod Security profile, and fit our exit codes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.cli.exits import Exit
from monitor.config import load_settings
from monitor.web.app import build_app
from monitor.web.health import ANSWER_WITHIN_S

yaml = pytest.importorskip("yaml")

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))
KUBERNETES = ["1.29", "1.34"]
LABEL = {"app.kubernetes.io/name": "subscription-monitor"}
STOP_S = 20


def named(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """What kustomize would read: the resources of a folder and of its bases, as they are written."""
    for entry in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        place = (folder / entry).resolve()
        if place.is_dir():
            yield from documents(place)
        else:
            yield from yaml.safe_load_all(place.read_text())


EVERYTHING = {(one["kind"], one["metadata"]["name"]): one for folder in OVERLAYS for one in documents(folder)}


def pod(document: dict[str, Any]) -> dict[str, Any] | None:
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    return spec.get("template", {}).get("spec")


PODS = {"/".join(key): found for key, one in EVERYTHING.items() if (found := pod(one))}
JOBS = {name: one["spec"]["jobTemplate"]["spec"] for (kind, name), one in EVERYTHING.items() if kind == "CronJob"}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("resource", EVERYTHING, ids="/".join)
def test_a_manifest_passes_the_schema(resource, version):
    checker = pytest.importorskip("kubernetes_validate")
    checker.validate(EVERYTHING[resource], version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_kustomize_builds_it_and_hands_the_settings_to_every_pod(overlay):
    built = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True).stdout
    found = [one for one in yaml.safe_load_all(built) if one]
    settings = {one["metadata"]["name"] for one in found if one["kind"] == "ConfigMap"}
    for each in filter(None, map(pod, found)):
        assert {volume["configMap"]["name"] for volume in each["volumes"] if "configMap" in volume} == settings
        assert all("/" in one["image"] for one in each["containers"]), "the image's place comes from the overlay"
    assert {one["metadata"].get("namespace", "subscription-monitor") for one in found} == {"subscription-monitor"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_admitted_under_the_restricted_profile(name):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted" and "Baseline"."""
    spec = PODS[name]
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec)
    assert {kind for volume in spec["volumes"] for kind in set(volume) - {"name"}} <= {"configMap", "emptyDir"}
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not own.get("privileged")
        assert all("hostPort" not in port for port in container.get("ports", ()))


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_less_than_the_profile_allows(name):
    spec = PODS[name]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", PODS)
def test_what_is_written_goes_to_a_volume(name):
    spec = PODS[name]
    empty = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
    for container in spec["containers"]:
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in empty}
        assert writable == {"/tmp", "/var/lib/subscription-monitor"}


@pytest.mark.parametrize("name", PODS)
def test_a_stop_leaves_time_for_the_replies_of_mails_in_flight(name):
    assert PODS[name]["terminationGracePeriodSeconds"] == 30 > STOP_S


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_as_the_images_user(name):
    user = re.search(r"^USER (\d+):(\d+)$", (FOLDER.parent / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    context = PODS[name]["securityContext"]
    assert [str(context["runAsUser"]), str(context["runAsGroup"])] == list(user.groups())


@pytest.mark.parametrize("name", PODS)
def test_secrets_are_variables_and_no_mounted_files(name):
    (container,) = PODS[name]["containers"]
    secrets = [source["secretRef"]["name"] for source in container["envFrom"]]
    assert secrets[0] == "subscription-monitor"
    assert secrets[1:] == (["subscription-monitor-owner"] if name == "Job/upgrade" else [])


@pytest.mark.parametrize("name", JOBS)
def test_settings_to_mend_and_held_mails_are_not_run_again(name):
    job = JOBS[name]
    rule = next(rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert sorted(rule["onExitCodes"]["values"]) == [Exit.CONFIG, Exit.HELD]
    assert rule["onExitCodes"]["operator"] == "In"
    spec = job["template"]["spec"]
    assert spec["restartPolicy"] == "Never", "a failure policy needs it"
    assert rule["onExitCodes"]["containerName"] in {container["name"] for container in spec["containers"]}
    assert {"type": "DisruptionTarget", "status": "True"} in job["podFailurePolicy"]["rules"][1]["onPodConditions"]


def test_the_schedules_are_kept_one_at_a_time_and_late_rather_than_never():
    run, deliver = (EVERYTHING["CronJob", name]["spec"] for name in ("run", "deliver"))
    assert (run["schedule"], run["timeZone"]) == ("0 7 * * *", "Europe/Budapest")
    assert (deliver["schedule"], deliver["timeZone"]) == ("*/5 * * * *", "Etc/UTC")
    for job in (run, deliver):
        assert job["concurrencyPolicy"] == "Forbid"
        assert job["startingDeadlineSeconds"] > 10, "below ten seconds a job may never start"
        assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0
    assert run["startingDeadlineSeconds"] >= 6 * 3600


def test_only_names_https_mail_and_the_database_are_reached():
    policy = EVERYTHING["NetworkPolicy", "subscription-monitor"]["spec"]
    assert policy["podSelector"]["matchLabels"] == LABEL
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 465, 587, 5432}
    assert all("to" in rule for rule in policy["egress"] if any(port["port"] == 53 for port in rule["ports"]))


def test_every_pod_carries_the_label_that_the_policy_selects():
    for overlay in OVERLAYS:
        if overlay.name != "base":
            written = yaml.safe_load((overlay / "kustomization.yaml").read_text())
            assert {"pairs": LABEL, "includeTemplates": True} in written["labels"]


def test_a_drain_can_always_go_on():
    budget, deployment = (EVERYTHING[kind, "daemon"]["spec"] for kind in ("PodDisruptionBudget", "Deployment"))
    assert budget["maxUnavailable"] >= deployment["replicas"]
    labels = deployment["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert EVERYTHING["NetworkPolicy", "daemon"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_probes_ask_the_pages_that_there_are():
    (container,) = PODS["Deployment/daemon"]["containers"]
    pages = {route.path for route in build_app(None).routes}
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} == {"/healthz", "/readyz"} <= pages
    assert probes["livenessProbe"]["path"] == "/healthz", "a database that is away is no reason to be killed"
    assert container["readinessProbe"]["timeoutSeconds"] > ANSWER_WITHIN_S
    (port,) = container["ports"]
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert container["args"][-1] == f"0.0.0.0:{port['containerPort']}"


def test_the_namespace_enforces_the_profile():
    labels = EVERYTHING["Namespace", "subscription-monitor"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_settings_are_whole_with_the_secrets_of_the_guide():
    guide = (FOLDER.parents[1] / "docs" / "deploy.md").read_text()
    named_there = set(re.findall(r"--from-literal=(MONITOR__\w+)=", guide))
    values = {
        "MONITOR__ACCOUNTS__ACME__API_KEY": "sk_1_key",
        "MONITOR__SMTP__PASSWORD": "letmein",
        "MONITOR__DATABASE__URL": "postgresql://monitor_worker@db/monitor",
        "MONITOR__SECRET_KEY": "ab" * 32,
    }
    assert named_there == set(values)
    settings = load_settings(FOLDER / "base" / "monitor.toml", values)
    assert not settings.database.is_sqlite, "pods share no disk"
    assert settings.secret_key, "an empty folder for each pod would make a key for each pod"
