{{/*
A tree as TOML. Helm's own `toToml` writes every whole number as a float, which tidegate refuses
where it wants a count; JSON's scalars and lists of scalars are TOML's.
Call with (dict "path" "" "table" $tree); nulls are left out.
*/}}
{{- define "tidegate.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "tidegate.tomlKey" $key }} = {{ toRawJson $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $inner := printf "%s%s" $path (include "tidegate.tomlKey" $key) }}

[{{ $inner }}]
{{- include "tidegate.toml" (dict "path" (printf "%s." $inner) "table" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end -}}

{{/*
tidegate.toml: what the user says, and over it what the chart decides. No secret is in it: those
come by environment variables, which win over the file.
*/}}
{{- define "tidegate.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $schedule := dict -}}
{{- $own := dig "controller" "schedule" dict $config | default dict -}}
{{- range $kind, $cron := dict "hot_update" .Values.cronJobs.hotUpdate "cold_start" .Values.cronJobs.coldStart -}}
{{- $clock := get $own $kind | default "" -}}
{{- if and $cron.enabled $clock -}}
{{- fail (printf "config.controller.schedule.%s is set and the CronJob for it is enabled: two clocks would ask for the same job" $kind) -}}
{{- end -}}
{{- $_ := set $schedule $kind $clock -}}
{{- end -}}
{{- $brokers := required "kafka.brokers is needed: the Kafka that events come from, `host:port,...`" .Values.kafka.brokers -}}
{{- $chart := dict
  "data_dir" "/var/lib/tidegate"
  "listen" (dict "tls" (dict "cert" "/etc/tidegate/tls/tls.crt" "key" "/etc/tidegate/tls/tls.key"))
  "stream" (dict
    "brokers" $brokers
    "topic_prefix" .Values.kafka.topicPrefix
    "partitions" .Values.kafka.partitions
    "replication" .Values.kafka.replication
    "properties" .Values.kafka.properties)
  "ledger" (dict
    "store" (dict "redis" (dict "prefix" .Values.redis.prefix))
    "keys" (dict "dir" "/etc/tidegate/keys" "unsigned_until" (int64 .Values.keys.unsignedUntil)))
  "controller" (dict "schedule" $schedule) -}}
{{- if .Values.suite -}}
{{- $_ := set $chart "evaluator" (dict "suite" "/etc/tidegate/suite.yaml") -}}
{{- end -}}
{{- include "tidegate.toml" (dict "path" "" "table" (mergeOverwrite $config $chart)) | trim -}}
{{- end -}}
