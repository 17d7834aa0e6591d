#!/usr/bin/env bash
# alerts.yml as an object of the Prometheus operator, on stdout. scripts/lint.sh compares. After a change there:
#   deploy/observability/prometheus-rule.sh >deploy/kubernetes/components/monitoring/prometheus-rule.yaml
set -euo pipefail
cat <<'HEAD'
# Made from deploy/observability/alerts.yml by deploy/observability/prometheus-rule.sh: change that, not this.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: two-services
  labels: { app.kubernetes.io/part-of: two-services }
spec:
HEAD
sed '/^#/d; s/^./  &/' "$(dirname "$0")/alerts.yml"
