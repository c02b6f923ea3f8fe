"""Every manifest against its schema: Kubernetes, KubeRay, Compose, Ray's cluster launcher, Prometheus, Grafana.

Kubernetes' schemas come with kubernetes-validate, that of Compose with check-jsonschema, that of the launcher with Ray.
Those of KubeRay and Grafana are written down in tests/infra/schemas, each with its source.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from pipeline.config import RecompressConfig, load

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.33"  # the oldest that we say works


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


MANIFESTS = [
    pytest.param(each, id=f"{path.name}:{each['kind']}")
    for path in sorted((INFRA / "kuberay").glob("*.yaml"))
    for each in documents(path)
]


def ray_problems(manifest: dict[str, Any]) -> list[str]:
    schema = json.loads((SCHEMAS / "kuberay.json").read_text())
    kind = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": schema["$defs"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(kind).iter_errors(manifest)]


def pod_templates(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if isinstance(tree.get("template"), dict):
            yield tree["template"]
        for value in tree.values():
            yield from pod_templates(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from pod_templates(value)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_kubernetes_takes_it(manifest):
    if manifest["apiVersion"].startswith("ray.io/"):
        assert ray_problems(manifest) == []
        for template in pod_templates(manifest):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_kuberay_schema_finds_mistakes():
    [cluster] = documents(INFRA / "kuberay" / "raycluster.yaml")
    cluster["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    assert ray_problems(cluster) == [
        "$.spec.workerGroupSpecs[0]: Additional properties are not allowed ('maxReplica' was unexpected)"
    ]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_pods_are_bounded_and_not_root(manifest):
    for template in pod_templates(manifest):
        if "containers" not in template["spec"]:
            continue
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def clusters(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The specs of Ray clusters that a manifest makes."""
    spec = manifest["spec"] if manifest["apiVersion"].startswith("ray.io/") else {}
    spec = spec.get("jobTemplate", spec)
    return [found for found in (spec.get("rayClusterSpec"), spec) if found and "headGroupSpec" in found]


def test_a_token_guards_every_head():
    found = [cluster for manifest in MANIFESTS for cluster in clusters(manifest.values[0])]
    assert [cluster.get("authOptions") for cluster in found] == [{"mode": "token"}] * 3


def test_every_night_is_one_night():
    [night] = documents(INFRA / "kuberay" / "nightly-cronjob.yaml")
    spec = night["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] > 0
    assert spec["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] > 0


def _config_calls() -> list[list[str]]:
    calls = []
    for path in sorted(INFRA.rglob("*.y*ml")):
        text = " ".join(path.read_text().replace("- ", " ").split())
        for found in re.finditer(r"jobs\.recompress --config /app/(\S+)((?: \S+=\S+)+)", text):
            calls.append([found[1], *found[2].split()])
    return calls


def test_every_job_that_a_manifest_starts_has_a_config_and_keys_that_exist():
    assert len(_config_calls()) >= 4
    for path, *overrides in _config_calls():
        settings = [each for each in overrides if "." in each.partition("=")[0] or each.startswith("log=")]
        load(RecompressConfig, str(ROOT / path), settings)


def _against(schema: Path, path: Path) -> list[str]:
    found = json.loads(schema.read_text())
    validator = validator_for(found)(found)
    tree = yaml.safe_load(path.read_text())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(tree)]


def test_compose_takes_it():
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    assert package.origin is not None
    schema = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    assert _against(schema, INFRA / "compose" / "compose.yaml") == []


def test_the_cluster_launcher_takes_it():
    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    assert _against(schema, INFRA / "aws" / "cluster.yaml") == []


def test_grafana_takes_the_dashboard():
    path = INFRA / "grafana" / "shardpress.json"
    assert _against(SCHEMAS / "grafana.json", path) == []
    ids = [panel["id"] for panel in json.loads(path.read_text())["panels"]]
    assert len(set(ids)) == len(ids)


def test_prometheus_takes_its_rules_and_they_fire_when_they_should():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool; `make tools` brings it")
    for command in (["check", "config", "--syntax-only", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=INFRA / "prometheus", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_without_promtool_are_at_least_rules():
    [group] = yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())["groups"]
    headings = re.findall(r"^## (.*)$", (INFRA / "OPERATIONS.md").read_text(), re.M)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for rule in group["rules"]:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "infra/OPERATIONS.md"
        assert anchor in anchors


def test_images_are_made_of_what_the_project_pins():
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(each for each in project["dependencies"] if each.startswith("torch=="))
    assert dockerfile.count(torch) == 2
    for source in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M):
        assert all((ROOT / name).exists() for name in source.split())
    assert re.search(r"^USER \d+:\d+$", dockerfile, re.M)
    ray_version = next(each for each in project["dependencies"] if each.startswith("ray[")).partition("==")[2]
    for path in (INFRA / "kuberay").glob("ray*.yaml"):
        assert f'rayVersion: "{ray_version}"' in path.read_text()


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_the_dockerfile_is_clean():
    done = subprocess.run([_tool("hadolint"), INFRA / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_are_clean():
    scripts = [*sorted(INFRA.rglob("*.sh")), ROOT / ".ci" / "run"]
    done = subprocess.run([_tool("shellcheck"), *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
