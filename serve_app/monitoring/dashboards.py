"""The dashboards that there are."""

from serve_app.monitoring.fleet_dashboard import FLEET
from serve_app.monitoring.models_dashboard import MODELS_AND_TENANTS
from serve_app.monitoring.replica_dashboard import REPLICA

DASHBOARDS = (FLEET, MODELS_AND_TENANTS, REPLICA)
