{{/*
The pod of a component. Call with a dict:
  root        $
  component   curator, trainer, evaluator, controller or gateway
  verb        the subcommand that runs it
  serves      whether it listens
  artifacts   the mount of the shared artifacts: "" (none), "read" or "write"
  data        whether /var/lib/tidegate is a claim named `data` (else it is empty at each start)
  grace       seconds it may take to stop
  probes      YAML
*/}}
{{- define "tidegate.pod" -}}
{{- $root := .root -}}
{{- $values := get $root.Values .component -}}
{{- $fullname := include "tidegate.fullname" $root -}}
metadata:
  labels: {{- include "tidegate.labels" (dict "root" $root "component" .component) | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Configuration is read at start, so another one needs another pod.
    checksum/config: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
    {{- if and .serves $root.Values.metrics.annotations }}
    prometheus.io/scrape: "true"
    prometheus.io/scheme: https
    prometheus.io/port: "8080"
    prometheus.io/path: /metrics
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tidegate.serviceAccount" $root }}
  automountServiceAccountToken: false
  # Kubernetes would add TIDEGATE_GATEWAY_PORT and the like for the Services of the namespace, and
  # tidegate reads every TIDEGATE_ variable as configuration.
  enableServiceLinks: false
  securityContext: {{- include "tidegate.podSecurity" $root | nindent 4 }}
  terminationGracePeriodSeconds: {{ .grace }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if and $values.gpu $root.Values.gpu.runtimeClassName }}
  runtimeClassName: {{ $root.Values.gpu.runtimeClassName }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $tolerations := $values.tolerations -}}
  {{- if $values.gpu -}}
  {{- $tolerations = concat $tolerations $root.Values.gpu.tolerations -}}
  {{- end }}
  {{- with $tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- if $values.topologySpreadConstraints }}
    {{- toYaml $values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "tidegate.selector" (dict "root" $root "component" .component) | nindent 10 }}
    {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "tidegate.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [tidegate]
      args:
        - {{ .verb }}
        - --config=/etc/tidegate/tidegate.toml
        {{- if .serves }}
        - --grpc=0.0.0.0:8001
        - --http=0.0.0.0:8080
        {{- end }}
      env:
        - name: TIDEGATE_TELEMETRY__SERVICE_NAME
          value: tidegate-{{ .component }}
        {{- if eq .component "gateway" }}
        # Who it is in the ledger's Swapped entries.
        - name: TIDEGATE_GATEWAY__NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- end }}
        {{- if $values.gpu }}
        - name: TIDEGATE_DEVICE
          value: cuda:0
        # Where compiled kernels are kept; the image's own folders are read-only.
        - name: HOME
          value: /tmp
        {{- end }}
        - name: TIDEGATE_LEDGER__STORE__REDIS__URL
          valueFrom:
            secretKeyRef:
              name: {{ required "redis.urlSecret.name is needed: a Secret with the URL of the Redis that keeps the ledger" $root.Values.redis.urlSecret.name }}
              key: {{ $root.Values.redis.urlSecret.key }}
        {{- with $root.Values.kafka.propertiesSecret }}
        {{- if .name }}
        - name: TIDEGATE_STREAM__PROPERTIES
          valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
        {{- end }}
        {{- end }}
        {{- if and (eq .component "controller") $root.Values.webhooks.secret.name }}
        - name: TIDEGATE_CONTROLLER__WEBHOOKS
          valueFrom: {secretKeyRef: {name: {{ $root.Values.webhooks.secret.name }}, key: {{ $root.Values.webhooks.secret.key }}}}
        {{- end }}
        {{- if .serves }}
        - name: TIDEGATE_LISTEN__TOKENS
          valueFrom:
            secretKeyRef:
              name: {{ required "tokens.secret.name is needed: a Secret with the bearer tokens; beyond loopback tidegate listens with TLS and tokens only" $root.Values.tokens.secret.name }}
              key: {{ $root.Values.tokens.secret.key }}
        {{- end }}
      {{- if .serves }}
      ports:
        - {name: grpc, containerPort: 8001}
        - {name: http, containerPort: 8080}
      {{- end }}
      {{- with .probes }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if .serves }}
      lifecycle:
        # Until every node has heard that this pod is going, it still gets new connections.
        preStop: {sleep: {seconds: 5}}
      {{- end }}
      resources:
        {{- $resources := deepCopy $values.resources }}
        {{- if $values.gpu }}
        {{- $limits := get $resources "limits" | default dict }}
        {{- $_ := set $limits $root.Values.gpu.resource 1 }}
        {{- $_ := set $resources "limits" $limits }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      securityContext: {{- include "tidegate.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/tidegate/tidegate.toml, subPath: tidegate.toml, readOnly: true}
        {{- if and $root.Values.suite (eq .component "evaluator") }}
        - {name: config, mountPath: /etc/tidegate/suite.yaml, subPath: suite.yaml, readOnly: true}
        {{- end }}
        {{- if .serves }}
        - {name: tls, mountPath: /etc/tidegate/tls, readOnly: true}
        {{- end }}
        - {name: keys, mountPath: /etc/tidegate/keys, readOnly: true}
        - {name: data, mountPath: /var/lib/tidegate}
        {{- if .artifacts }}
        - {name: artifacts, mountPath: /var/lib/tidegate/artifacts{{ if eq .artifacts "read" }}, readOnly: true{{ end }}}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: config, configMap: {name: {{ $fullname }}}}
    {{- if .serves }}
    - name: tls
      secret:
        secretName: {{ required "tls.secretName is needed: a Secret with the certificate; beyond loopback tidegate listens with TLS and tokens only" $root.Values.tls.secretName }}
        defaultMode: 0440
    {{- end }}
    # Everybody believes the same keys; only who signs has one to sign with.
    - name: keys
      projected:
        defaultMode: 0440
        sources:
          - configMap: {name: {{ required "keys.public.name is needed: a ConfigMap with evaluator.pub and controller.pub, whose signatures count" $root.Values.keys.public.name }}}
          {{- if has .component (list "evaluator" "controller") }}
          {{- $own := get $root.Values.keys .component }}
          - secret:
              name: {{ required (printf "keys.%s.name is needed: a Secret with the key that the %s signs with" .component .component) $own.name }}
              items: [{key: {{ $own.key }}, path: {{ .component }}.key}]
          {{- end }}
    {{- if not .data }}
    - {name: data, emptyDir: {sizeLimit: 1Gi}}
    {{- end }}
    {{- if .artifacts }}
    - {name: artifacts, persistentVolumeClaim: {claimName: {{ include "tidegate.artifactsClaim" $root }}{{ if eq .artifacts "read" }}, readOnly: true{{ end }}}}
    {{- end }}
    - {name: tmp, emptyDir: {}}
{{- end -}}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.runAs.user }}
runAsGroup: {{ int64 .Values.runAs.group }}
fsGroup: {{ int64 .Values.runAs.group }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A budget for one component. */}}
{{- define "tidegate.pdb" -}}
{{- if .root.Values.podDisruptionBudgets.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "tidegate.fullname" .root }}-{{ .component }}
  labels: {{- include "tidegate.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # Who is not ready (a gateway without a champion) protects nothing.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "tidegate.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* The Service of a component that listens. */}}
{{- define "tidegate.service" -}}
{{- $root := .root -}}
{{- $service := (get $root.Values .component).service -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "tidegate.fullname" $root }}-{{ .component }}
  labels: {{- include "tidegate.labels" . | nindent 4 }}
  {{- with $service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  {{- if $service.headless }}
  clusterIP: None
  {{- end }}
  selector: {{- include "tidegate.selector" . | nindent 4 }}
  ports:
    # Not `appProtocol: grpc`: it is gRPC inside TLS, which proxies must pass on as it is.
    - {name: grpc, port: {{ int $service.grpcPort }}, targetPort: grpc}
    - {name: http, port: {{ int $service.httpPort }}, targetPort: http, appProtocol: https}
{{- end -}}
