#!/usr/bin/env python3
"""What the chart promises, as checks on what the real helm renders. Run by check.sh."""
import json
import re
import sys

import kubernetes_validate
import yaml

from render import CHART, HERE, NAMESPACE, RELEASE, helm, objects, template

ROOT = HERE.parent
SETS = sorted((HERE / "ci").glob("*.yaml"))
MINIMAL = HERE / "ci/minimal.yaml"
# The schemas of this Kubernetes; the chart's own lower bound is in Chart.yaml.
KUBERNETES = "1.35"
WORKLOADS = ("Deployment", "StatefulSet", "CronJob")

failures = []
passed = 0


def claim(holds, what):
    global passed
    if holds:
        passed += 1
    else:
        failures.append(what)
        print(f"FAILED  {what}")


def pod_template(thing):
    spec = thing["spec"]
    return (spec["jobTemplate"]["spec"] if thing["kind"] == "CronJob" else spec)["template"]


def of(things, kind, suffix=""):
    found = [t for t in things if t["kind"] == kind and t["metadata"]["name"].endswith(suffix)]
    return found[0] if found else None


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


# --------------------------------------------------------------------- what holds of any values


def subcommands():
    """The verbs of the binary, from where they are defined."""
    source = (ROOT / "services/tidegate/src/cli.rs").read_text()
    body = re.search(r"enum Command \{\n(.*?)\n\}", source, re.S)[1]
    names = re.findall(r"^    ([A-Z][A-Za-z]+)", body, re.M)
    return {re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() for name in names}


def config_fields():
    """Environment variables that the configuration has a field for, by the values schema."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]
    names = set()

    def walk(node, path):
        names.add("TIDEGATE_" + "__".join(path).upper())
        for key, value in node.get("properties", {}).items():
            walk(value, [*path, key])

    walk(schema, [])
    # Of the chart's own (helm/schema.py, OWNED): written only where they are used.
    return names | {
        "TIDEGATE_CONTROLLER__WEBHOOKS",
        "TIDEGATE_DEVICE",
        "TIDEGATE_GATEWAY__NAME",
        "TIDEGATE_LEDGER__STORE__REDIS__URL",
        "TIDEGATE_LISTEN__TOKENS",
        "TIDEGATE_STREAM__PROPERTIES",
        "TIDEGATE_TELEMETRY__SERVICE_NAME",
    }


def check_shape(name, things):
    keys = [(t["kind"], t["metadata"]["name"]) for t in things]
    claim(len(keys) == len(set(keys)), f"{name}: no two objects have one name")
    for kind, called in keys:
        where = f"{name}: {kind} {called}"
        claim(len(called) <= (52 if kind == "CronJob" else 63), f"{where}: the name is short enough")
    for thing in things:
        where = f"{name}: {thing['kind']} {thing['metadata']['name']}"
        if thing["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # not Kubernetes' own
        try:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
            claim(True, where)
        except kubernetes_validate.ValidationError as error:
            claim(False, f"{where}: {error}")


def check_pods(name, things):
    verbs, fields = subcommands(), config_fields()
    for thing in (t for t in things if t["kind"] in WORKLOADS):
        where = f"{name}: {thing['kind']} {thing['metadata']['name']}"
        pod = pod_template(thing)["spec"]
        labels = pod_template(thing)["metadata"]["labels"]
        if "selector" in thing["spec"]:
            own = thing["spec"]["selector"]["matchLabels"]
            claim(matches(own, labels), f"{where} selects its own pods")
        claim(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
              and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
              f"{where} does not run as root")
        claim(pod["automountServiceAccountToken"] is False, f"{where} has no API token")
        claim(pod["enableServiceLinks"] is False,
              f"{where} gets no TIDEGATE_ variables that are not configuration")
        [container] = pod["containers"]
        claim(container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, f"{where} may do nothing that it need not")
        claim(not container["image"].endswith(":latest"), f"{where} has a pinned image")
        claim(container["resources"].get("requests") and container["resources"].get("limits"),
              f"{where} says what it needs")
        claim(container["command"] == ["tidegate"] and container["args"][0] in verbs,
              f"{where}: `{container['args'][0]}` is a subcommand of tidegate")
        allowed = {"TIDEGATE_TOKEN"} if thing["kind"] == "CronJob" else fields
        for variable in container.get("env", []):
            called = variable["name"]
            claim(not called.startswith("TIDEGATE_") or called in allowed,
                  f"{where}: {called} is a field of the configuration")
            secret = re.search("URL|TOKEN|PROPERTIES|WEBHOOKS", called)
            claim(not secret or "secretKeyRef" in variable.get("valueFrom", {}),
                  f"{where}: {called} comes from a Secret")
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [container[key] for key in container if key.endswith("Probe")]
        claim(bool(ports) == (len(probes) == 3), f"{where} is probed where it listens")
        for probe in probes:
            get = probe["httpGet"]
            claim(get["port"] in ports and get["scheme"] == "HTTPS", f"{where}: probes use TLS")
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = thing["spec"].get("volumeClaimTemplates", [])
        there = [v["name"] for v in pod["volumes"]] + [c["metadata"]["name"] for c in claims]
        claim(sorted(mounted) == sorted(there), f"{where}: volumes and mounts agree")


def check_services(name, things):
    pods = [pod_template(t) for t in things if t["kind"] in WORKLOADS]
    for service in (t for t in things if t["kind"] == "Service"):
        where = f"{name}: Service {service['metadata']['name']}"
        behind = [p for p in pods if matches(service["spec"]["selector"], p["metadata"]["labels"])]
        claim(len(behind) == 1, f"{where} has one kind of pod behind it")
        ports = {p["name"] for p in behind[0]["spec"]["containers"][0].get("ports", [])}
        for port in service["spec"].get("ports", []):
            claim(port["targetPort"] in ports, f"{where}: {port['name']} is a port of the pods")
    selecting = ("PodDisruptionBudget", "NetworkPolicy")
    for thing in (t for t in things if t["kind"] in selecting):
        selector = thing["spec"].get("selector") or thing["spec"]["podSelector"]
        claim(any(matches(selector["matchLabels"], p["metadata"]["labels"]) for p in pods),
              f"{name}: {thing['kind']} {thing['metadata']['name']} is about some pods")


def check_clocks(name, things):
    controller = of(things, "Service", "-controller")
    port = next(p["port"] for p in controller["spec"]["ports"] if p["name"] == "grpc")
    endpoint = f"--endpoint=https://{controller['metadata']['name']}.{NAMESPACE}.svc:{port}"
    for thing in (t for t in things if t["kind"] == "CronJob"):
        where = f"{name}: CronJob {thing['metadata']['name']}"
        pod = pod_template(thing)["spec"]
        args = pod["containers"][0]["args"]
        kind = {"hot-update": "hot_update", "cold-start": "cold_start"}
        called = next(k for s, k in kind.items() if thing["metadata"]["name"].endswith(s))
        claim(args[:3] == ["jobs", "request", called] and args[3].startswith("--reason="),
              f"{where} asks for its kind of job and does nothing else")
        claim(endpoint in args, f"{where} asks the controller's Service")
        items = pod["volumes"][0]["secret"]["items"]
        claim([item["path"] for item in items] == ["ca.crt"], f"{where} cannot read the TLS key")


def check_config(name, things):
    config = of(things, "ConfigMap")["data"]["tidegate.toml"]
    for word in ("password", "token", "url ="):
        claim(word not in config, f"{name}: no secret is in the ConfigMap ({word})")


# --------------------------------------------------------------------- what holds of some values


def check_minimal(things):
    trainer = of(things, "StatefulSet", "-trainer")
    claim(trainer["spec"]["replicas"] == 1, "one trainer")
    claim(of(things, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"],
          "artifacts lie where all components see them")
    gateway = pod_template(of(things, "Deployment", "-gateway"))["spec"]["containers"][0]
    mount = next(m for m in gateway["volumeMounts"] if m["name"] == "artifacts")
    claim(mount.get("readOnly"), "a gateway cannot change a generation")
    private = {pod_template(t)["metadata"]["labels"]["app.kubernetes.io/component"]: [
        source["secret"]["items"][0]["path"]
        for volume in pod_template(t)["spec"]["volumes"] if volume["name"] == "keys"
        for source in volume["projected"]["sources"] if "secret" in source]
        for t in things if t["kind"] in ("Deployment", "StatefulSet")}
    claim({c: keys for c, keys in private.items() if keys}
          == {"evaluator": ["evaluator.key"], "controller": ["controller.key"]},
          f"who signs has its own key, and nobody another's ({private})")
    schedules = {t["metadata"]["name"]: t["spec"]["schedule"] for t in things
                 if t["kind"] == "CronJob"}
    claim(schedules == {f"{RELEASE}-tidegate-hot-update": "0 3 * * *",
                        f"{RELEASE}-tidegate-cold-start": "0 4 1 1,4,7,10 *"},
          "a daily hot update and a quarterly cold start")
    claim('hot_update = ""' in of(things, "ConfigMap")["data"]["tidegate.toml"],
          "the controller's own clock is off")
    for absent in ("HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule", "Secret"):
        claim(of(things, absent) is None, f"minimal: no {absent}")


def check_gpu(things):
    for kind, component in (("StatefulSet", "trainer"), ("Deployment", "evaluator"),
                            ("Deployment", "gateway")):
        pod = pod_template(of(things, kind, f"-{component}"))["spec"]
        container = pod["containers"][0]
        env = {v["name"]: v.get("value") for v in container["env"]}
        claim(container["resources"]["limits"]["nvidia.com/gpu"] == 1
              and env["TIDEGATE_DEVICE"] == "cuda:0" and pod["runtimeClassName"] == "nvidia"
              and any(t["key"] == "nvidia.com/gpu" for t in pod["tolerations"]),
              f"gpu: the {component} has one and uses it")
    curator = pod_template(of(things, "Deployment", "-curator"))["spec"]
    claim("nvidia.com/gpu" not in json.dumps(curator), "gpu: the curator has none")


def check_full(things):
    claim(of(things, "PersistentVolumeClaim") is None, "full: the claim that is there is used")
    claim("replicas" not in of(things, "Deployment", "-gateway")["spec"],
          "full: only the autoscaler says how many gateways there are")
    claim(of(things, "ConfigMap")["data"]["suite.yaml"]
          == yaml.safe_load((HERE / "ci/full.yaml").read_text())["suite"],
          "full: the suite arrives as it was written")
    rules = of(things, "PrometheusRule")["spec"]
    claim(rules == yaml.safe_load((CHART / "files/alerts.yaml").read_text()),
          "full: the alerts arrive as they were written")
    egress = of(things, "NetworkPolicy")["spec"]["egress"]
    ports = {port["port"] for rule in egress for port in rule["ports"]}
    claim(ports == {53, 9094, 9095, 19092, 6380, 4317, 4318, "grpc"},
          f"full: what goes out goes to the parts that were named ({ports})")


# ------------------------------------------------------------------------- what must be refused

REFUSED = {
    # A word that nobody knows, at every depth.
    ("--set", "curatr.replicas=2"): "curatr",
    ("--set", "gateway.replica=2"): "replica",
    ("--set", "config.gatway.held=2"): "gatway",
    ("--set", "config.trainer.recipe.hot_update.epoch=2"): "epoch",
    ("--set", "redis.urlSecret.secret=x"): "secret",
    # A value of another type, or out of its range.
    ("--set", "gateway.replicas=0"): "replicas",
    ("--set-string", "kafka.partitions=many"): "partitions",
    ("--set", "kafka.brokers=kafka"): "brokers",
    ("--set", "cronJobs.hotUpdate.schedule=daily"): "schedule",
    ("--set-string", "config.curator.batch=many"): "batch",
    # What the binary would refuse, or the chart decides itself.
    ("--set", "tls.secretName="): "tls.secretName is needed",
    ("--set", "tokens.secret.name="): "tokens.secret.name is needed",
    ("--set", "keys.public.name="): "keys.public.name is needed",
    ("--set", "keys.evaluator.name="): "keys.evaluator.name is needed",
    ("--set", "config.controller.webhooks[0].url=x"): "webhooks",
    ("--set", "config.listen.grpc=0.0.0.0:8001"): "listen",
    ("--set", "config.stream.embedded.listen=0.0.0.0:9092"): "stream",
    ("--set", "config.ledger.store=embedded"): "ledger",
    # What is missing.
    ("--set", "kafka.brokers="): "kafka.brokers is needed",
    ("--set", "redis.urlSecret.name="): "redis.urlSecret.name is needed",
    ("--set", "cronJobs.tokenSecret.name="): "cronJobs.tokenSecret.name is needed",
    # What would be unsafe.
    ("--set", "runAs.user=0"): "user",
    ("--set", "image.tag=latest"): "tag",
    ("--set", r"kafka.properties.sasl\.password=hunter2"): "sasl.password",
    ("--set", "redis.url=redis://:hunter2@redis:6379"): "url",
    # Two clocks.
    ("--set", "config.controller.schedule.hot_update=0 3 * * *"): "two clocks",
}


def check_refused():
    for sets, word in REFUSED.items():
        done = template(MINIMAL, *sets)
        claim(done.returncode != 0 and word in done.stderr,
              f"{sets[1]} is refused, and the message says `{word}`: {done.stderr.strip()}")
    done = helm("template", RELEASE, CHART)
    claim(done.returncode != 0 and "is needed" in done.stderr, "without any values it says why not")


# ------------------------------------------------------------------------------- files by themselves


def check_values_are_described():
    """Every value has its line in values.yaml and its type in the schema."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(path, value, node):
        properties = node.get("properties")
        if path == "config" or properties is None or not isinstance(value, dict):
            return
        known = set(properties) - {"global"}
        claim(known == set(value), f"values.yaml and its schema agree on `{path or '.'}`: "
                                   f"{sorted(known ^ set(value))}")
        for key in known & set(value):
            walk(f"{path}.{key}".strip("."), value[key], properties[key])

    walk("", values, schema)


def check_alerts():
    """Alerts speak of metrics that the code has."""
    sources = "".join(
        path.read_text() for top in ("libs", "services") for path in (ROOT / top).rglob("*.rs"))
    groups = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        for metric in re.findall(r"\btidegate_[a-z_]+", rule["expr"]):
            metric = re.sub("_(bucket|count|sum)$", "", metric)
            claim(f'"{metric}"' in sources, f"alert {rule['alert']}: {metric} is a metric")


def main():
    special = {"minimal": check_minimal, "gpu": check_gpu, "full": check_full}
    for values in SETS:
        name = values.stem
        linted = helm("lint", "--strict", CHART, "--values", values)
        claim(linted.returncode == 0, f"{name}: helm lint --strict\n{linted.stdout}{linted.stderr}")
        things = objects(values)
        for check in (check_shape, check_pods, check_services, check_clocks, check_config):
            check(name, things)
        special[name](things)
    check_refused()
    check_values_are_described()
    check_alerts()
    version = helm("version", "--template", "{{.Version}}").stdout
    print(f"helm {version}, Kubernetes {KUBERNETES}: {len(SETS)} value sets rendered, "
          f"{len(REFUSED)} refused, {passed} checks passed, {len(failures)} failed")
    sys.exit(bool(failures))


main()
