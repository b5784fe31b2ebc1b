"""The one line to change, for each proxy that the guide knows (docs/deployment.md), and for our own configuration."""

from __future__ import annotations


def _of(nginx: str = "", caddy: str = "", traefik: str = "") -> tuple[str, ...]:
    lines = {"nginx": nginx, "Caddy": caddy, "Traefik": traefik}
    return tuple(f"{proxy + ':':<9}{line}" for proxy, line in lines.items() if line)


BODY_LIMIT = _of(
    "client_max_body_size 0;",
    "take `request_body { max_size … }` out of the site",
    "take the middleware `buffering` out of the router, or set its maxRequestBodyBytes = 0",
)
REQUEST_BUFFERING = _of(
    "proxy_request_buffering off;",
    "take `request_buffers` out of reverse_proxy",
    "take the middleware `buffering` out of the router",
)
TIMEOUT = (
    *_of(
        "client_body_timeout 300s; proxy_send_timeout 300s; proxy_read_timeout 300s;",
        "take `read_body` out of `servers { timeouts { … } }`",
        'entryPoints.<name>.transport.respondingTimeouts.readTimeout = "0s"',
    ),
    "noraflask: server.idle_timeout (NORA_IDLE_TIMEOUT) is the longest silence that the registry itself allows",
)
UPSTREAM = _of(
    "proxy_pass http://127.0.0.1:4000;",
    "reverse_proxy 127.0.0.1:4000",
    'http.services.<name>.loadBalancer.servers = [{ url = "http://127.0.0.1:4000" }]',
)
CLIENT_ADDRESS = _of(
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "take `header_up -X-Forwarded-For` out of reverse_proxy",
    "take the middleware that removes X-Forwarded-For out of the router",
)
FORGED_CLIENT = _of(
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "take `trusted_proxies` out of `servers { … }` and of reverse_proxy, or let it name your own proxies alone",
    "entryPoints.<name>.forwardedHeaders.insecure = false",
)
FORGED_HOST = _of(
    "proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;",
    "take `trusted_proxies` out of `servers { … }` and of reverse_proxy, or let it name your own proxies alone",
    "entryPoints.<name>.forwardedHeaders.insecure = false",
)
REQUEST_ID = _of("take `proxy_set_header X-Request-Id` out", "take `header_up X-Request-Id` out", "take the middleware that sets X-Request-Id out")
RANGE = _of(
    "proxy_set_header Range $http_range; proxy_set_header If-Range $http_if_range;",
    "take `header_up -Range` out of reverse_proxy, and `encode` out of the site",
    "take the middleware `compress` out of the router",
)
COMPRESSION = _of("gzip off;", "take `encode` out of the site", "take the middleware `compress` out of the router")
ANSWER_HEADERS = _of(
    "take `proxy_hide_header` out, and `gzip off;`",
    "take `header_down -…` out of reverse_proxy, and `encode` out of the site",
    "take `customResponseHeaders` and `compress` out of the router's middlewares",
)
METHODS = _of("take `limit_except` out", "take `@… method` matchers out", "take Method(…) out of the router's rule")
PULL_CUT = _of(
    "proxy_max_temp_file_size 0; proxy_read_timeout 300s; send_timeout 300s;",
    "take `write` out of `servers { timeouts { … } }`",
    'entryPoints.<name>.transport.respondingTimeouts.writeTimeout = "0s"',
)
REDIRECT = _of(
    "return 308 https://$host$request_uri;",
    "redir https://{host}{uri} 308",
    'entryPoints.web.http.redirections.entryPoint.to = "websecure"',
)
METRICS = (
    *_of(
        "location = /metrics { allow 127.0.0.1; deny all; proxy_pass http://127.0.0.1:4000; }",
        "respond /metrics 403",
        "rule: … && !Path(`/metrics`)",
    ),
    "or here: metrics.allow_from (NORA_METRICS_ALLOW_FROM), metrics.token_file (NORA_METRICS_TOKEN_FILE)",
)
NO_TLS = _of(
    "listen 443 ssl http2; ssl_certificate fullchain.crt; ssl_certificate_key server.key;",
    "https://<name> { reverse_proxy 127.0.0.1:4000 }",
    'http.routers.<name>.entryPoints = ["websecure"], with tls = {}',
)
HTTP_2 = _of("listen 443 ssl http2;", "take `protocols h1` out of `servers { … }`", 'tls.options.<name>.alpnProtocols = ["h2", "http/1.1"]')
ACCEL = _of(
    "location /_nora/ { internal; alias <storage.path>/; }",
    "header_up -X-Nora-Accel",
    'customRequestHeaders: { X-Nora-Accel: "" }',
)
CHAIN = _of(
    "ssl_certificate: a file with the server's certificate and then the intermediate ones (cat server.crt intermediate.crt > fullchain.crt)",
    "tls fullchain.crt server.key",
    "tls.certificates.certFile = fullchain.crt",
)
RENEW = _of(
    "put the new certificate in ssl_certificate's place and `nginx -s reload`",
    "`caddy reload`; with automatic certificates the log of Caddy says why it could not renew",
    "touch the dynamic configuration file; with ACME the log of Traefik says why it could not renew",
)


LOGIN = "nora doctor --user <name> --password-file <file>, or --token-file <file>: with the right to push to and delete from nora-doctor/**"


def outside_address(base: str, prefix: str) -> tuple[str, ...]:
    """The proxy must say how clients reach it; else the registry must be told."""
    nginx = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;"
    caddy = "take `header_up` for Host and X-Forwarded-* out of reverse_proxy: Caddy sends the right ones by itself"
    traefik = "take the middleware `headers` with Host or X-Forwarded-* out: Traefik sends the right ones by itself"
    if prefix:
        nginx += f" proxy_set_header X-Forwarded-Prefix {prefix};"
        caddy = f"handle_path {prefix}/* {{ reverse_proxy 127.0.0.1:4000 {{ header_up X-Forwarded-Prefix {prefix} }} }}"
        traefik = f'middlewares.<name>.stripPrefix.prefixes = ["{prefix}"]: it sends X-Forwarded-Prefix by itself'
    return (*_of(nginx, caddy, traefik), f'or once and for all: server.public_url = "{base}" (NORA_PUBLIC_URL)')


def unknown_host(base: str) -> tuple[str, ...]:
    """A proxy that hands on the clients' Host and shows itself by no header looks like a browser that was led here by a foreign name."""
    return (*CLIENT_ADDRESS, f'or once and for all: server.public_url = "{base}" (NORA_PUBLIC_URL)')
