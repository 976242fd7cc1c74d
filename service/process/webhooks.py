"""Builds the sender and the deliverer of webhooks from the settings."""

import ssl
from datetime import timedelta

from yarl import URL

from service.postgres.webhook_deliveries import WebhookDeliveries
from service.process.resources import Resources
from service.settings import Settings, SettingsError
from service.webhooks.allowed import AllowList, parse_hosts, parse_networks
from service.webhooks.deliverer import Deliverer, DelivererOptions
from service.webhooks.sending import Sender


def allow_list(settings: Settings) -> AllowList:
    """What the operator allows webhooks to reach."""
    return AllowList(parse_hosts(settings.webhook_allow_hosts or ""), parse_networks(settings.webhook_allow_networks or ""))


def build_sender(settings: Settings) -> Sender:
    """The sender. Raises SettingsError if WEBHOOK_CA_FILE cannot be used."""
    tls = ssl.create_default_context()
    if settings.webhook_ca_file is not None:
        try:
            tls.load_verify_locations(cafile=settings.webhook_ca_file)
        except (OSError, ssl.SSLError):
            raise SettingsError("WEBHOOK_CA_FILE names no readable file of certificates in PEM form") from None
    proxy = settings.webhook_proxy
    return Sender(
        allow_list(settings),
        tls,
        timeout=timedelta(seconds=settings.webhook_timeout_seconds),
        proxy=None if proxy is None else URL(proxy.get_secret_value()),
    )


def build_deliverer(resources: Resources, settings: Settings) -> Deliverer:
    """The deliverer of this process. Raises SettingsError."""
    return Deliverer(
        WebhookDeliveries(resources.database),
        build_sender(settings),
        DelivererOptions(
            settings.webhook_slots,
            poll=timedelta(seconds=settings.poll_seconds),
            margin=timedelta(seconds=settings.lease_seconds),
        ),
    )
