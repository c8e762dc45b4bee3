{{/* A Grafana dashboard from a file under dashboards/: two panels in a row, one line for each query. */}}
{{- define "facscale.dashboard" -}}
{{- $source := dict "type" "prometheus" "uid" "$datasource" -}}
{{- $variables := list (dict "name" "datasource" "type" "datasource" "query" "prometheus" "label" "data source") -}}
{{- range .variables -}}
{{- $variables = append $variables (dict "name" .name "label" .label "type" "query" "datasource" $source "query" .query "refresh" 2
    "includeAll" true "multi" true "current" (dict "text" "All" "value" "$__all")) -}}
{{- end -}}
{{- $panels := list -}}
{{- range $index, $panel := .panels -}}
{{- $targets := list -}}
{{- range $number, $query := $panel.queries -}}
{{- $targets = append $targets (dict "refId" (printf "Q%d" $number) "expr" $query.expr "legendFormat" $query.legend) -}}
{{- end -}}
{{- $scale := dict "unit" $panel.unit "min" 0 -}}
{{- if $panel.signed -}}
{{- $scale = omit $scale "min" -}}
{{- end -}}
{{- with $panel.max -}}
{{- $_ := set $scale "max" . -}}
{{- end -}}
{{- $place := dict "x" (mul (mod $index 2) 12) "y" (mul (div $index 2) 8) "w" 12 "h" 8 -}}
{{- $panels = append $panels (dict "id" (add $index 1) "type" "timeseries" "title" $panel.title "description" (default "" $panel.description)
    "datasource" $source "gridPos" $place "targets" $targets "fieldConfig" (dict "defaults" $scale "overrides" list)) -}}
{{- end -}}
{{- dict "uid" .uid "title" .title "tags" (list "facscale") "schemaVersion" 39 "refresh" "30s" "time" (dict "from" "now-6h" "to" "now")
    "templating" (dict "list" $variables) "panels" $panels | toPrettyJson -}}
{{- end -}}
