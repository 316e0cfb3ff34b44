"""The Kubernetes manifests: every field known to KubeRay 1.7's definitions, and the parts fit each other."""

from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.serve import DRIVERS_END_WITHIN_S, STREAMS_END_WITHIN_S
from cluster.settings import ServeSettings
from tests.deployment.manifests import (
    KUBERAY,
    Node,
    cluster_schema,
    misfits,
    of_kind,
    one,
    part,
    pod_templates,
    selects,
)

JOB_STOPS_WITHIN_S = 60


@pytest.fixture(scope="module")
def schema(shared_data: Path) -> Node:
    return cluster_schema(shared_data)


def labels(template: Node) -> Node:
    found: Node = template["metadata"]["labels"]
    return found


def serve_flags() -> Node:
    (container,) = one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["tench", "serve"]
    return dict(flag.removeprefix("--").split("=", 1) for flag in container["args"][2:])


def test_the_ray_cluster_has_no_field_that_kuberay_does_not_know(schema: Node) -> None:
    assert misfits(one("RayCluster"), schema) == []


def test_a_misspelt_field_deep_in_the_ray_cluster_would_be_found(schema: Node) -> None:
    wrong = one("RayCluster")
    wrong["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert any("readinesProbe" in words for words in misfits(wrong, schema))


def test_pods_services_claims_and_policies_fit_the_schemas_that_kuberay_carries_for_them(schema: Node) -> None:
    head = part(schema, "spec", "headGroupSpec")
    assert misfits(one("Deployment")["spec"]["template"], part(head, "template")) == []
    service = one("Service")
    assert misfits({name: service[name] for name in ("metadata", "spec")}, part(head, "headService")) == []
    claim = part(head, "template", "spec", "volumes", "[]", "ephemeral", "volumeClaimTemplate", "spec")
    for document in of_kind("PersistentVolumeClaim"):
        assert misfits(document["spec"], claim) == []
    rules = part(schema, "spec", "networkPolicy", "head", "ingressRules")
    for policy in of_kind("NetworkPolicy"):
        assert misfits(policy["spec"]["ingress"], rules) == []


def test_the_cluster_demands_a_token_from_a_secret_and_runs_this_ray() -> None:
    spec = one("RayCluster")["spec"]
    secrets = {made["name"] for made in one("Kustomization")["secretGenerator"]}
    assert spec["authOptions"] == {"mode": "token", "secretName": "tench-ray"}
    assert "tench-ray" in secrets
    assert spec["rayVersion"] == version("ray")
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_start_parameters_of_ray_are_text() -> None:
    spec = one("RayCluster")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_deployment_replaces_its_one_pod_only_after_its_end() -> None:
    spec = one("Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    assert selects(spec["selector"], labels(spec["template"]))
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > DRIVERS_END_WITHIN_S + STREAMS_END_WITHIN_S


def test_the_service_is_started_with_settings_that_it_knows() -> None:
    flags = serve_flags()
    settings = ServeSettings.model_validate({
        name.replace("-", "_"): (value,) if name == "root" else value for name, value in flags.items()
    })  # fmt: skip
    head = one("RayCluster")["metadata"]["name"]
    assert settings.ray_address == f"http://{head}-head-svc:8265"
    assert settings.token_file is not None
    assert not settings.allow_open_ray


def test_the_ports_of_service_pod_and_settings_agree() -> None:
    (port,) = one("Service")["spec"]["ports"]
    (container,) = one("Deployment")["spec"]["template"]["spec"]["containers"]
    (named,) = (p for p in container["ports"] if p["name"] == port["targetPort"])
    assert str(named["containerPort"]) == str(port["port"]) == serve_flags()["port"]
    taken = [t for t in pod_templates() if selects({"matchLabels": one("Service")["spec"]["selector"]}, labels(t))]
    assert taken == [one("Deployment")["spec"]["template"]]


def test_every_probe_asks_a_port_that_its_container_names() -> None:
    for template in pod_templates():
        for container in template["spec"]["containers"]:
            names = {port["name"] for port in container["ports"]}
            probes = [value for name, value in container.items() if name.endswith("Probe")]
            assert len(probes) >= 2
            assert all(probe["httpGet"]["port"] in names for probe in probes)


def test_no_pod_has_rights_or_writes_into_its_image() -> None:
    for template in pod_templates():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip


def test_every_mount_has_its_volume_and_every_claim_and_secret_exists() -> None:
    claims = {claim["metadata"]["name"] for claim in of_kind("PersistentVolumeClaim")}
    made = {s["name"]: {f.split("=")[0] for f in s["files"]} for s in one("Kustomization")["secretGenerator"]}
    for template in pod_templates():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "secret" in volume:
                secret = volume["secret"]
                assert {each["key"] for each in secret["items"]} <= made[secret["secretName"]]


def test_runs_and_data_lie_under_the_same_names_in_every_pod() -> None:
    shared = {"runs", "data"}
    places = [
        {m["name"]: m["mountPath"] for m in container["volumeMounts"] if m["name"] in shared}
        for template in pod_templates() for container in template["spec"]["containers"]
    ]  # fmt: skip
    flags = serve_flags()
    assert all(place == {"runs": f"{flags['home']}/runs", "data": flags["root"]} for place in places)


def test_a_head_leaves_its_jobs_the_time_they_have_to_stop() -> None:
    head = one("RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["terminationGracePeriodSeconds"] > JOB_STOPS_WITHIN_S


def admitted(target: Node, source: Node, port: int) -> bool:
    """Whether the policies let a pod of `source` reach a port of a pod of `target`, by Kubernetes' rules."""
    policies = [p["spec"] for p in of_kind("NetworkPolicy") if selects(p["spec"]["podSelector"], labels(target))]
    if not policies:
        return True
    return any(
        port in [p["port"] for p in rule.get("ports") or [{"port": port}]]
        and any(selects(peer["podSelector"], labels(source)) for peer in rule["from"])
        for policy in policies for rule in policy["ingress"]
    )  # fmt: skip


def test_only_the_service_reaches_the_dashboard_and_nothing_reaches_the_service() -> None:
    head, *workers, service = pod_templates()
    stranger = {"metadata": {"labels": {"app.kubernetes.io/component": "service"}}}
    assert admitted(head, service, 8265)
    assert not admitted(head, service, 6379)
    assert not any(admitted(worker, service, 52365) for worker in workers)
    assert all(admitted(head, worker, 6379) and admitted(worker, head, 20000) for worker in workers)
    for target in (head, *workers, service):
        assert not any(admitted(target, stranger, port) for port in (6379, 8265, 8400, 52365))
    assert not admitted(service, head, 8400)


def test_the_kustomization_names_every_manifest_and_every_image() -> None:
    kustomization = one("Kustomization")
    assert {*kustomization["resources"], "kustomization.yaml"} == {f.name for f in KUBERAY.glob("*.yaml")}
    images = {c["image"] for t in pod_templates() for c in t["spec"]["containers"]}
    assert images == {image["name"] for image in kustomization["images"]}
