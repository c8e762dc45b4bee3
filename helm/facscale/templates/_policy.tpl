{{/* A selector of our pods: (dict "root" $ "components" (list "ray-head")). */}}
{{- define "facscale.policy.pods" -}}
matchLabels:
  app.kubernetes.io/part-of: facscale
  app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- if eq (len .components) 1 }}
  app.kubernetes.io/component: {{ first .components }}
{{- else }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: {{ toJson .components }}}
{{- end }}
{{- end -}}

{{/* Rules for traffic from and to our own pods: (dict "root" $ "components" (list "mlflow") "port" 5000). */}}
{{- define "facscale.policy.from" -}}
- from:
    - podSelector:
        {{- include "facscale.policy.pods" . | nindent 8 }}
  ports: [{port: {{ .port }}}]
{{- end -}}
{{- define "facscale.policy.to" -}}
- to:
    - podSelector:
        {{- include "facscale.policy.pods" . | nindent 8 }}
  ports: [{port: {{ .port }}}]
{{- end -}}

{{/* Port of an address, the scheme's own where it names none. */}}
{{- define "facscale.policy.port" -}}
{{- $ports := dict "http" 80 "https" 443 "redis" 6379 "rediss" 6379 -}}
{{- $scheme := regexFind "^[a-z]+://" . | trimSuffix "://" -}}
{{- $host := regexReplaceAll "^[a-z]+://" . "" | regexFind "^[^/]*" -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (get $ports $scheme | default 443) -}}
{{- end -}}

{{/* A rule for traffic to peers outside the release: (dict "to" peers "ports" (list 443) "udp" false). Without peers it allows all, at these ports. */}}
{{- define "facscale.policy.outside" -}}
- ports:
    {{- range .ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- if $.udp }}
    - {port: {{ int . }}, protocol: UDP}
    {{- end }}
    {{- end }}
  {{- with .to }}
  to: {{ toJson . }}
  {{- end }}
{{- end -}}
