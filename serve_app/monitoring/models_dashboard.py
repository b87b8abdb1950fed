"""What each model and each tenant gets."""

from serve_app.monitoring.panels import Dashboard, Variable
from serve_app.monitoring.queries import panel, quantile, rate, total
from serve_app.serving.metrics.metric_row import PREFIX

_MODEL = Variable("model", f"{PREFIX}num_requests_running", "model_name")
_TENANT = Variable("tenant", f"{PREFIX}tenant_requests_running", "tenant")
_BOTH = 'model_name=~"$model",tenant=~"$tenant"'

MODELS_AND_TENANTS = Dashboard(
    "expertpool-models",
    "expertpool: models and tenants",
    (_MODEL, _TENANT),
    (
        (
            "Models",
            (
                panel(
                    "Generated tokens",
                    "cps",
                    rate("generation_tokens_total", "model_name", _BOTH),
                    "{{model_name}}",
                    stacked=True,
                ),
                panel(
                    "Prompt tokens",
                    "cps",
                    rate("prompt_tokens_total", "model_name", _BOTH),
                    "{{model_name}}",
                    stacked=True,
                ),
                panel(
                    "First token, p95",
                    "s",
                    quantile("time_to_first_token_seconds", 0.95, "model_name", _BOTH),
                    "{{model_name}}",
                ),
                panel(
                    "Wait for the first step, p95",
                    "s",
                    quantile("request_queue_time_seconds", 0.95, "model_name", _BOTH),
                    "{{model_name}}",
                ),
                panel(
                    "Running",
                    "short",
                    total("num_requests_running", "model_name", 'model_name=~"$model"'),
                    "{{model_name}}",
                ),
                panel(
                    "Waiting",
                    "short",
                    total("num_requests_waiting", "model_name", 'model_name=~"$model"'),
                    "{{model_name}}",
                ),
            ),
        ),
        (
            "Tenants",
            (
                panel(
                    "Generated tokens",
                    "cps",
                    rate("generation_tokens_total", "tenant", _BOTH),
                    "{{tenant}}",
                    stacked=True,
                ),
                panel(
                    "Errors, by code",
                    "reqps",
                    rate("request_errors_total", "tenant, code", 'tenant=~"$tenant"'),
                    "{{tenant}} {{code}}",
                ),
                panel(
                    "Tokens that wait",
                    "short",
                    total("tenant_tokens_waiting", "tenant", 'tenant=~"$tenant"'),
                    "{{tenant}}",
                ),
                panel(
                    "Running",
                    "short",
                    total("tenant_requests_running", "tenant", 'tenant=~"$tenant"'),
                    "{{tenant}}",
                ),
                panel(
                    "Wait for the first step by class, p95",
                    "s",
                    quantile("request_queue_time_seconds", 0.95, "service_class", _BOTH),
                    "{{service_class}}",
                ),
                panel(
                    "Sides",
                    "reqps",
                    rate("request_success_total", "side", _BOTH),
                    "{{side}}",
                    stacked=True,
                ),
            ),
        ),
    ),
)
