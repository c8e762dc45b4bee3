{{/* Address of a database: (dict "root" $ "name" "mlflow"). libpq reads user and password from PGUSER and PGPASSWORD. */}}
{{- define "facscale.mlflow.database" -}}
{{- $database := .root.Values.mlflow.database -}}
{{- if .root.Values.postgres.enabled -}}
postgresql+psycopg2://{{ include "facscale.fullname" .root }}-postgres:5432/{{ .name }}
{{- else -}}
postgresql+psycopg2://{{ $database.host }}:{{ int $database.port }}/{{ .name }}
{{- end -}}
{{- end -}}

{{- define "facscale.mlflow.databaseEnv" -}}
- name: PGUSER
  valueFrom: {secretKeyRef: {name: {{ include "facscale.secret.database" . }}, key: username}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "facscale.secret.database" . }}, key: password}}
- {name: PGSSLMODE, value: {{ ternary "disable" .Values.mlflow.database.sslMode .Values.postgres.enabled }}}
- {name: PGCONNECT_TIMEOUT, value: "10"}
{{- end -}}

{{/* Digest of the secrets that the server reads at its start, so that an upgrade restarts it when one of them has changed. */}}
{{- define "facscale.mlflow.secretsDigest" -}}
{{- $text := "" -}}
{{- range list (include "facscale.secret.mlflow" .) (include "facscale.secret.database" .) (include "facscale.secret.artifacts" .) -}}
{{- if . -}}
{{- $text = (lookup "v1" "Secret" $.Release.Namespace .).data | default dict | toJson | cat $text -}}
{{- end -}}
{{- end -}}
{{- $text | sha256sum | trunc 16 -}}
{{- end -}}

{{/* The container that upgrades both databases to the schema of this image, or creates it. A second run changes nothing. */}}
{{- define "facscale.mlflow.migrate" -}}
name: migrate
{{ include "facscale.image" (dict "root" . "cuda" false) }}
securityContext:
  {{- include "facscale.security" . | nindent 2 }}
command: [/bin/sh, -ec]
args:
  - |
    for attempt in 1 2 3 4 5 6; do
      mlflow db upgrade "$DATABASE" && python -m mlflow.server.auth db upgrade --url "$AUTH_DATABASE" && exit 0
      echo "attempt $attempt failed; again in 10 s" >&2
      sleep 10
    done
    exit 1
env:
  - {name: HOME, value: /tmp}
  - {name: DATABASE, value: {{ include "facscale.mlflow.database" (dict "root" . "name" .Values.mlflow.database.name) | quote }}}
  - {name: AUTH_DATABASE, value: {{ include "facscale.mlflow.database" (dict "root" . "name" .Values.mlflow.database.authName) | quote }}}
  - {name: MLFLOW_DISABLE_TELEMETRY, value: "true"}
  {{- include "facscale.mlflow.databaseEnv" . | nindent 2 }}
  {{- include "facscale.extraEnv" . | nindent 2 }}
{{ include "facscale.resources" (dict "cpu" "500m" "memory" "1Gi") }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- include "facscale.extraMounts" . | nindent 2 }}
{{- end -}}

{{/* Host names that the server accepts; it answers 403 to others. Names are compared with their port, so each is listed with and without. */}}
{{- define "facscale.mlflow.hosts" -}}
{{- $name := printf "%s-mlflow" (include "facscale.fullname" .) -}}
{{- $hosts := list $name (printf "%s:*" $name) (printf "%s.*" $name) "localhost" "localhost:*" "127.0.0.1:*" "$(POD_IP):5000" -}}
{{- if .Values.mlflow.ingress.enabled -}}
{{- $hosts = append $hosts .Values.mlflow.ingress.host -}}
{{- end -}}
{{- concat $hosts .Values.mlflow.allowedHosts | join "," -}}
{{- end -}}

{{/* Origins from which a browser may send changes: the server's own pages. Without them its UI would show no runs, because it searches by POST. */}}
{{- define "facscale.mlflow.origins" -}}
{{- $origins := list -}}
{{- with .Values.mlflow.ingress -}}
{{- if .enabled -}}
{{- $origins = append $origins (printf "%s://%s" (ternary "https" "http" (ne .tlsSecret "")) .host) -}}
{{- end -}}
{{- end -}}
{{- range .Values.mlflow.allowedHosts -}}
{{- $origins = append $origins (printf "https://%s" .) -}}
{{- end -}}
{{- join "," $origins -}}
{{- end -}}
